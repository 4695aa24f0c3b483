//! A client's function over documents (`documents/edit`), in the language Rhai.
//!
//! As Meilisearch runs it: it finds the document as `doc` and changes that, or sets it to `()`, which
//! deletes the document; `context` is what the request gave. Each run is by itself, bounded in
//! steps and in what it may build, and sees neither time nor anything else outside: the same document
//! always becomes the same.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use miroir_seams::on_stack_of;
use miroir_wire::document::document_id;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::reserved::contains_reserved;
use rhai::{AST, ASTNode, Dynamic, Engine, Expr, FnPtr, OptimizationLevel, Scope, Stmt};
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
/// The methods of lists and objects that call their first argument and don't keep it.
const TAKES_FUNCTIONS: [&str; 17] = [
    "all",
    "dedup",
    "drain",
    "filter",
    "find",
    "find_map",
    "for_each",
    "index_of",
    "map",
    "order",
    "order_by",
    "reduce",
    "reduce_rev",
    "retain",
    "some",
    "sort",
    "sort_by",
];

/// A function, ready to run.
#[derive(Debug)]
pub struct EditFunction {
    engine: Engine,
    ast: AST,
    context: Option<Dynamic>,
    ended: Arc<AtomicBool>,
}

/// Ends a function's runs when it is dropped, wherever they are.
#[derive(Debug)]
pub struct EndsRuns(Arc<AtomicBool>);

impl Drop for EndsRuns {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
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
        let mut engine = bounded();
        // As it stands: what an optimiser makes of it is not looked at.
        engine.set_optimization_level(OptimizationLevel::None);
        let ast = engine.compile(text).map_err(|error| uncompiled(&error))?;
        if let Some(reason) = holds_values(&ast) {
            return Err(uncompiled(&reason));
        }
        // A text that `eval` makes has not been looked at.
        engine.set_allow_anonymous_fn(false);
        let ast = engine.optimize_ast(&Scope::new(), ast, OptimizationLevel::Full);
        let context = match context.map(serde_json::from_str).transpose() {
            Ok(context) => context,
            Err(error) => return Err(ApiError::new(Code::Internal, error.to_string())),
        };
        let ended = Arc::new(AtomicBool::new(false));
        let is_ended = ended.clone();
        engine.on_progress(move |_| is_ended.load(Ordering::Relaxed).then_some(Dynamic::UNIT));
        Ok(Self { engine, ast, context, ended })
    }

    /// What ends its runs, those of other threads too, when it is dropped.
    #[must_use]
    pub fn ends_runs(&self) -> EndsRuns {
        EndsRuns(self.ended.clone())
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
        let after = scope.remove::<Dynamic>("doc").unwrap_or(Dynamic::UNIT).flatten();
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

/// An interpreter whose runs end, and whose values have a size.
fn bounded() -> Engine {
    let mut engine = Engine::new();
    engine.set_max_call_levels(CALL_LEVELS_MAX);
    engine.set_max_operations(OPERATIONS_MAX);
    engine.set_max_variables(VARIABLES_MAX);
    engine.set_max_functions(FUNCTIONS_MAX);
    engine.set_max_expr_depths(EXPRESSION_DEPTHS.0, EXPRESSION_DEPTHS.1);
    engine.set_max_string_size(TEXT_BYTES_MAX);
    engine.set_max_array_size(ITEMS_MAX);
    engine.set_max_map_size(ITEMS_MAX);
    // See `holds_values`.
    engine.disable_symbol("curry");
    // The standard output is not the client's.
    engine.on_print(|_| {});
    engine.on_debug(|_, _, _| {});
    engine
}

/// Why a function of this text could hold values for longer than one call, if it could.
///
/// The interpreter's bounds count lists, objects and texts, but not what a function holds: variables
/// from outside that an anonymous one uses, or the arguments of `curry`. Such functions could hold
/// each other to any depth, or in a circle that is never freed. So `curry` does not exist here, and
/// anonymous functions use variables from outside only where they live for one call: as first
/// argument of one of [`TAKES_FUNCTIONS`]. Where one does, those names must not mean anything else: a
/// method of an object is a function that it holds, so no function may be a value in any other way.
fn holds_values(ast: &AST) -> Option<String> {
    let mut captures = false;
    ast.walk(&mut |path| {
        visit(path, &mut |path| {
            captures |= matches!(path.last(), Some(ASTNode::Stmt(Stmt::Share(_))));
            !captures
        })
    });
    if !captures {
        return None;
    }
    let named: Vec<&str> = ast.iter_functions().map(|function| function.name).collect();
    if let Some(name) = named.iter().find(|name| TAKES_FUNCTIONS.contains(name)) {
        return Some(outside(&format!("there can be no other `{name}`")));
    }
    let mut reason = None;
    let mut look = |path: &[ASTNode<'_>]| {
        let kept = match path {
            [.., value @ ASTNode::Expr(_), ASTNode::Stmt(Stmt::Share(_))] => {
                !is_argument(&path[..path.len() - 2], value)
            }
            // With the variables that it uses, see above.
            [
                ..,
                ASTNode::Expr(Expr::FnCall(call, _)),
                ASTNode::Expr(Expr::DynamicConstant(..)),
            ] if call.name == "curry" => false,
            [before @ .., value @ ASTNode::Expr(Expr::DynamicConstant(constant, _))] => {
                constant.is::<FnPtr>() && !is_argument(before, value)
            }
            [.., ASTNode::Expr(Expr::FnCall(call, _))]
            | [.., ASTNode::Stmt(Stmt::FnCall(call, _))] => {
                call.name == "Fn" || call.name == "eval"
            }
            [.., ASTNode::Expr(Expr::Variable(variable, ..))] => {
                named.contains(&variable.1.as_str())
            }
            _ => false,
        };
        if kept {
            reason = Some(outside("with one, no function can be a value elsewhere"));
        }
        !kept
    };
    ast.walk(&mut |path| visit(path, &mut look));
    reason
}

/// Looks at the node at the end of a path, and at what a `break` gives: Rhai's own walk leaves that out.
fn visit(path: &[ASTNode<'_>], look: &mut dyn FnMut(&[ASTNode<'_>]) -> bool) -> bool {
    look(path)
        && match path.last() {
            Some(ASTNode::Stmt(Stmt::BreakLoop(Some(given), ..))) => {
                given.walk(&mut Vec::new(), &mut |path| visit(path, look))
            }
            _ => true,
        }
}

/// Whether `value` is the first argument, at the end of the path `before`, of a method that takes a function.
fn is_argument(before: &[ASTNode<'_>], value: &ASTNode<'_>) -> bool {
    let (Some(ASTNode::Expr(Expr::MethodCall(call, _))), ASTNode::Expr(value)) =
        (before.last(), value)
    else {
        return false;
    };
    TAKES_FUNCTIONS.contains(&call.name.as_str())
        && call.args.first().is_some_and(|first| std::ptr::eq(first, *value))
}

fn outside(more: &str) -> String {
    format!(
        "An anonymous function that uses variables from outside can only be the argument of {}; {more}",
        TAKES_FUNCTIONS.map(|name| format!("`{name}`")).join(", ")
    )
}

fn uncompiled(reason: &dyn std::fmt::Display) -> ApiError {
    refused(format!(
        "Document edition runtime error encountered while compiling the function: {reason}"
    ))
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
        let curried = "fn h(a) { a } let f = Fn(\"h\"); loop { f = Fn(\"h\").curry(f); }";
        assert!(refusal(curried, film).contains("compiling"));
        assert!(refusal("doc.x = timestamp()", film).contains("Function not found"));
        let endless = EditFunction::compile("loop { doc.n = 1 }", None).unwrap();
        drop(endless.ends_runs());
        let ended = endless.run(film.as_bytes(), "id").map_err(|error| error.message);
        assert!(ended.is_err_and(|message| message.contains("terminated")));
    }

    #[test]
    fn anonymous_functions_are_arguments() {
        let film = r#"{"id":1,"year":1990,"tags":["a","b","c"],"cast":[{"name":"x","age":3}]}"#;
        for (text, tags) in [
            ("doc.tags.map(|t| t + t)", r#"["aa","bb","cc"]"#),
            ("let own = \"b\"; doc.tags.filter(|t| t != own)", r#"["a","c"]"#),
            (
                "let n = 0; doc.tags.for_each(|i| { n += 1; this += n }); doc.tags",
                r#"["a1","b2","c3"]"#,
            ),
            ("let more = |t| t + \"!\"; doc.tags.map(more)", r#"["a!","b!","c!"]"#),
            ("let of = #{last: |l| l[l.len() - 1]}; [of.last(doc.tags)]", r#"["c"]"#),
            ("doc.tags.sort(|a, b| if a < b { 1 } else { -1 }); doc.tags", r#"["c","b","a"]"#),
            ("let n = 1; doc.tags.map(|t| long(t) + n)", r#"["aa1","bb1","cc1"]"#),
            (
                "let l = [1, 2]; doc.tags.map(|t| l.map(|n| t + n).reduce(|a, b| a + b))",
                r#"["a1a2","b1b2","c1c2"]"#,
            ),
            ("let y = doc.year; doc.tags.filter(|t| doc.year == y && t != \"a\")", "Data race"),
            (
                "let tags = doc.tags; tags.filter(|t| doc.year == 1990 && t != \"a\")",
                r#"["b","c"]"#,
            ),
        ] {
            let text = format!("fn long(t) {{ t + t }} let made = {{ {text} }}; doc.tags = made;");
            let made = run(&text, None, film);
            match made {
                Ok(Change::Document(bytes)) => {
                    let made: Value = serde_json::from_slice(&bytes).unwrap();
                    assert_eq!(made["tags"].to_string(), tags, "{text}");
                }
                Ok(other) => panic!("{text}: {other:?}"),
                Err(error) => assert!(error.message.contains(tags), "{text}: {}", error.message),
            }
        }
    }

    /// Functions that hold each other have no size.
    #[test]
    fn no_function_holds_another() {
        let film = r#"{"id":1,"tags":["a"]}"#;
        for text in [
            "let f = || 1; loop { let g = f; f = || g; }",
            "let f = 1; loop { let g = f; f = [|| g]; }",
            "let m = #{filter: |f| f}; let f = 1; loop { let g = f; f = m.filter(|x| g); }",
            "fn keep(f) { f } let m = #{filter: keep}; let f = 1; loop { let g = f; f = m.filter(|x| g); }",
            "fn keep(f) { f } let m = #{filter: Fn(\"keep\")}; let f = 1; loop { let g = f; f = m.filter(|x| g); }",
            "let m = eval(\"#{filter: Fn(`keep`)}\"); let f = 1; loop { let g = f; f = m.filter(|x| g); }",
            "fn filter(f) { f } let f = 1; loop { let g = f; f = filter(|x| g); }",
            "fn filter(f) { f } let f = 1; loop { let g = f; f = 1.filter(|x| g); }",
            "let f = 1; loop { let g = f; f = [].reduce(|a, b| a, || g); }",
            "let f = 1; loop { let g = f; f = [1].map(|x| || g); }",
            "let f = 1; let g = f; [1].map(|x| { let h = |y| x; h.call(1) })",
            "let l = []; let f = || l; l.push(f);",
            "let f = 1; loop { let g = f; f = switch 1 { 1 => || g, _ => 1 }; }",
            "let f = 1; loop { let g = f; f = if true { || g } else { 1 }; }",
            "let f = 1; loop { let g = f; f = { || g }; }",
            "fn keep(x) { return || x; } let f = 1; loop { f = keep(f); }",
            "fn keep(x) { || x } let f = 1; loop { f = keep(f); }",
            "let f = 1; loop { let g = f; try { throw || g; } catch (e) { f = e; } }",
            "let f = 1; loop { let g = f; f = loop { break || g; }; }",
            "let f = 1; loop { let g = f; f = loop { break [|| g]; }; }",
            "let f = 1; loop { let g = f; f = loop { break loop { break || g; }; }; }",
            "let f = 1; loop { let g = f; for x in [|| g] { f = x; } }",
            "let f = 1; loop { let g = f; f = #{a: || g}; }",
            "let f = (); loop { let g = f; f = () ?? || g; }",
            "let f = #{}; loop { let g = f; f.a = || g; }",
            "let f = [1]; loop { let g = f; f[0] = || g; }",
            "const F = 1; let f = F; do { let g = f; f = || g; } while true;",
        ] {
            assert!(refusal(text, film).contains("from outside"), "{text}");
        }
        // Nor does one wait for what it is called in.
        for text in [
            "doc.tags.for_each(|i| { doc.x = this })",
            "doc.tags.retain(|t| { doc = #{id: 1}; true })",
            "doc.n = [1].map(|x| doc.id)",
            "doc.id += [1].map(|x| doc.id)[0]",
            "doc[[1].map(|x| doc.tags[0])[0]] = [1].map(|x| doc.tags)",
            "doc.tags[[1].map(|x| doc.id)[0]] = [1].map(|x| doc.tags)",
            "doc.tags[[0].map(|x| doc.id - 1)[0]] += [1].map(|x| doc.tags[0])[0]",
            "doc.map(|k| doc.id)",
            "doc.filter(|k, v| doc.id == v)",
            "for t in doc.tags { [1].for_each(|x| doc.tags.push(t)) }",
            "switch doc.id { 1 => [1].map(|x| doc.id), _ => 1 }",
            "doc.tags.sort(|a, b| doc.tags.len())",
            "let l = [1]; l.for_each(|i| l.push(1)); l = l.map(|x| l)",
            "let l = [[1]]; l[0].for_each(|i| l[0].push(1))",
            "let s = `a`; s += [1].map(|x| s)[0]; s[[0].map(|x| s.len() - 1)[0]] = 'b'",
        ] {
            let _ended = run(text, None, film);
        }
        let evaluated = "let f = 1; eval(\"let g = f; f = || g\")";
        assert!(refusal(evaluated, film).contains("Unexpected '||'"));
    }
}
