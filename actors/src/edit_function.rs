//! A client's function over documents (`documents/edit`), in the language Rhai.
//!
//! As Meilisearch runs it: it finds the document as `doc` and changes that, or sets it to `()`, which
//! deletes the document; `context` is what the request gave. Each run is by itself, bounded in
//! steps and in what it may build, and sees neither time nor anything else outside: the same document
//! always becomes the same.

use std::io;

use miroir_seams::on_stack_of;
use miroir_wire::document::document_id;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::reserved::contains_reserved;
use rhai::{AST, Dynamic, Engine, OptimizationLevel, Scope};
use serde_json::Value;

/// Steps of one run, as in Meilisearch.
const OPERATIONS_MAX: u64 = 1_000_000;
/// Functions that call functions; each takes of the stack of the thread.
const CALL_LEVELS_MAX: usize = 64;
/// Variables in one scope, as in Meilisearch.
const VARIABLES_MAX: usize = 1000;
/// Functions in the text, as in Meilisearch.
const FUNCTIONS_MAX: usize = 30;
/// How deep expressions may nest, outside and inside of functions.
const EXPRESSION_DEPTHS: (usize, usize) = (64, 32);
/// Bytes of the stack that runs have: lists and objects nest as deep as they have [`ITEMS_MAX`] each, and are
/// copied, printed and dropped by recursion.
const STACK_BYTES: usize = 256 << 20;
/// Bytes of a text that a run makes.
const TEXT_BYTES_MAX: usize = 16 << 20;
/// Items of a list or of an object, as in Meilisearch.
const ITEMS_MAX: usize = 10_000;

/// A function, ready to run.
#[derive(Debug)]
pub struct EditFunction {
    engine: Engine,
    ast: AST,
    context: Option<Dynamic>,
}

/// What became of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It is this now.
    Document(Vec<u8>),
    /// It is to be deleted.
    Deletion,
}

/// Whether a text can be a function at all: what can't is refused before it becomes a task.
///
/// # Errors
/// `bad_request`.
pub fn check_text(text: &str) -> Result<(), ApiError> {
    match Engine::new().compile(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(ApiError::new(Code::BadRequest, error.to_string())),
    }
}

impl EditFunction {
    /// Reads the text.
    ///
    /// # Errors
    /// `edit_documents_by_function_error` when it is no function.
    pub fn compile(text: &str, context: Option<&str>) -> Result<Self, ApiError> {
        let mut engine = Engine::new();
        engine.set_optimization_level(OptimizationLevel::Full);
        engine.set_max_call_levels(CALL_LEVELS_MAX);
        engine.set_max_operations(OPERATIONS_MAX);
        engine.set_max_variables(VARIABLES_MAX);
        engine.set_max_functions(FUNCTIONS_MAX);
        engine.set_max_expr_depths(EXPRESSION_DEPTHS.0, EXPRESSION_DEPTHS.1);
        engine.set_max_string_size(TEXT_BYTES_MAX);
        engine.set_max_array_size(ITEMS_MAX);
        engine.set_max_map_size(ITEMS_MAX);
        // Functions that hold functions are of no size, and so of no bound: named ones do.
        engine.set_allow_anonymous_fn(false);
        engine.disable_symbol("curry");
        // The standard output is not the client's.
        engine.on_print(|_| {});
        engine.on_debug(|_, _, _| {});
        let ast = engine.compile(text).map_err(|error| {
            refused(format!(
                "Document edition runtime error encountered while compiling the function: {error}"
            ))
        })?;
        let context = match context.map(serde_json::from_str).transpose() {
            Ok(context) => context,
            Err(error) => return Err(ApiError::new(Code::Internal, error.to_string())),
        };
        Ok(Self { engine, ast, context })
    }

    /// Does `work`, which runs this function, on a stack that is deep enough for whatever it builds.
    ///
    /// # Errors
    /// When there is no room for the stack.
    pub fn deep<R: Send>(work: impl FnOnce() -> R + Send) -> io::Result<R> {
        on_stack_of(STACK_BYTES, work)
    }

    /// Runs it on one document, a JSON object without reserved fields; within [`Self::deep`].
    ///
    /// # Errors
    /// `edit_documents_by_function_error` when the function fails, makes no object of the document or
    /// changes its id.
    pub fn run(&self, document: &[u8], primary_key: &str) -> Result<Change, ApiError> {
        let before: Dynamic = serde_json::from_slice(document).map_err(unreadable)?;
        let mut scope = Scope::new();
        if let Some(context) = &self.context {
            scope.push_constant_dynamic("context", context.clone());
        }
        scope.push_dynamic("doc", before);
        self.engine.run_ast_with_scope(&mut scope, &self.ast).map_err(|error| {
            refused(format!(
                "Document edition runtime error encountered while running the function: {error}"
            ))
        })?;
        let after = scope.remove::<Dynamic>("doc").unwrap_or(Dynamic::UNIT);
        if after.is_unit() {
            return Ok(Change::Deletion);
        }
        if !after.is_map() {
            return Err(refused("Document editions must keep documents as objects".to_owned()));
        }
        let after = serde_json::to_value(&after).map_err(unreadable)?;
        let before: Value = serde_json::from_slice(document).map_err(unreadable)?;
        if after == before {
            return Ok(Change::None);
        }
        let after = after.to_string().into_bytes();
        if serde_json::from_slice::<Value>(&after).is_err() {
            let message = "Document editions cannot nest values so deep that nobody reads them";
            return Err(refused(message.to_owned()));
        }
        if let Some(name) = contains_reserved(&after) {
            return Err(refused(format!(
                "Document editions cannot set the reserved field `{name}`"
            )));
        }
        let id = |document| {
            document_id(document, primary_key)
                .map_err(|error| ApiError::new(error.code(), error.to_string()))
        };
        match id(document)? == id(&after)? {
            true => Ok(Change::Document(after)),
            false => {
                Err(refused("Document editions cannot modify a document's primary key".to_owned()))
            }
        }
    }
}

fn refused(message: String) -> ApiError {
    ApiError::new(Code::EditDocumentsByFunctionError, message)
}

/// Nodes answer with objects, and functions make of them what can be printed.
fn unreadable(error: serde_json::Error) -> ApiError {
    refused(format!("Document edition could not read or print the document: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, context: Option<&str>, document: &str) -> Result<Change, ApiError> {
        let function = EditFunction::compile(text, context)?;
        EditFunction::deep(|| function.run(document.as_bytes(), "id")).expect("a stack")
    }

    fn changed(document: &str) -> Result<Change, ApiError> {
        Ok(Change::Document(document.as_bytes().to_vec()))
    }

    fn refusal(text: &str, document: &str) -> String {
        match run(text, None, document) {
            Err(error) if error.code == Code::EditDocumentsByFunctionError => error.message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn documents_are_changed_deleted_or_left() {
        let film = r#"{"id":1,"title":"It","year":1990,"tags":["a"],"rating":7.5,"of":null}"#;
        assert_eq!(
            run("doc.year += 27; doc.remove(\"of\"); doc.remove(\"tags\")", None, film),
            changed(r#"{"id":1,"rating":7.5,"title":"It","year":2017}"#)
        );
        assert_eq!(run("if doc.year < 2000 { doc = () }", None, film), Ok(Change::Deletion));
        assert_eq!(run("if doc.year > 2000 { doc = () }", None, film), Ok(Change::None));
        assert_eq!(run("doc = #{id: doc.id}; 7", None, film), changed(r#"{"id":1}"#));
        assert_eq!(
            run("doc = #{id: 1, x: context.x}", Some(r#"{"x":[1,{"y":2}]}"#), film),
            changed(r#"{"id":1,"x":[1,{"y":2}]}"#)
        );
    }

    #[test]
    fn refusals_are_worded_as_by_meilisearch() {
        let film = r#"{"id":1,"year":1990}"#;
        assert_eq!(
            refusal("doc.year +=", film),
            "Document edition runtime error encountered while compiling the function: Script is incomplete (line 1, position 12)"
        );
        assert_eq!(
            refusal("doc.id = 2", film),
            "Document editions cannot modify a document's primary key"
        );
        let without = run("doc.remove(\"id\")", None, film);
        assert_eq!(without.map_err(|error| error.code), Err(Code::MissingDocumentId));
        let text = check_text("doc.year +=").map_err(|error| (error.code, error.message));
        let message = "Script is incomplete (line 1, position 12)".to_owned();
        assert_eq!(text, Err((Code::BadRequest, message)));
        assert_eq!(refusal("doc = 2", film), "Document editions must keep documents as objects");
        assert!(refusal("throw \"no\"", film).ends_with("Runtime error: no (line 1, position 1)"));
        assert!(refusal("doc._miroir_shard = 1", film).contains("`_miroir_shard`"));
        assert!(refusal("context.x", film).contains("Variable not found"));
    }

    /// Nobody may bring a pod down with a function.
    #[test]
    fn functions_are_bounded() {
        let film = r#"{"id":1}"#;
        assert!(refusal("loop { doc.n = 1 }", film).contains("Too many operations"));
        assert!(refusal("fn f(n) { f(n + 1) + 1 } f(0)", film).contains("Stack overflow"));
        assert!(refusal("let s = \"aaaaaaaa\"; loop { s += s }", film).contains("too large"));
        assert!(refusal("let l = [1]; loop { l += l }", film).contains("too large"));
        for (open, close) in [
            ("(", ")"),
            ("[", "]"),
            ("{", "}"),
            ("#{a:", "}"),
            ("if true {", "}"),
            ("!", ""),
            ("|x| ", ""),
            ("f(", ")"),
            ("`${", "}`"),
        ] {
            let deep = format!("doc.x = {}1{}", open.repeat(20_000), close.repeat(20_000));
            assert!(refusal(&deep, film).contains("compiling"), "{open}");
            assert!(check_text(&deep).is_err(), "{open}");
        }
        for nest in ["[a]", "#{a: a}"] {
            let deep = format!("let a = 1; for n in 0..3000 {{ a = {nest}; }} doc.x = a;");
            assert!(refusal(&deep, film).contains("deep"), "{nest}");
        }
        let chain = "let f = || 1; loop { let g = f; f = || g; }";
        assert!(refusal(chain, film).contains("compiling"));
        let curried = "fn h(a) { a } let f = Fn(\"h\"); loop { f = Fn(\"h\").curry(f); }";
        assert!(refusal(curried, film).contains("compiling"));
        assert!(refusal("doc.x = timestamp()", film).contains("Function not found"));
    }
}
