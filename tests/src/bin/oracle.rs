//! Compares two servers by generated queries. See `miroir_tests::oracle`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use miroir_tests::client::Api;
use miroir_tests::oracle::documents::shipped_movies;
use miroir_tests::oracle::judge::Servers;
use miroir_tests::oracle::run::{Options, run};

/// Loads the same documents into two servers and compares their answers to generated queries.
/// Indexes of the names it uses are deleted on both.
#[derive(Debug, Parser)]
struct Arguments {
    /// Base URL of the one node that is right by definition.
    #[arg(long)]
    reference: String,
    /// Its key.
    #[arg(long)]
    reference_key: Option<String>,
    /// Base URL of the server under test.
    #[arg(long)]
    subject: String,
    /// Its key.
    #[arg(long)]
    subject_key: Option<String>,
    /// The seed of all randomness.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many queries.
    #[arg(long, default_value_t = 2000)]
    queries: u64,
    /// Run this case only, and print it even if it is of the rate class.
    #[arg(long)]
    only: Option<u64>,
    /// Documents, one JSON object a line, with a field `id`; `.gz` is unpacked.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Documents taken from the file.
    #[arg(long, default_value_t = 20_000)]
    documents: usize,
    /// Take the indexes as an earlier run left them.
    #[arg(long)]
    no_load: bool,
    /// Give the subject the documents in reverse, so that ties stand the other way round.
    #[arg(long)]
    reverse_subject: bool,
    /// Failures that are shrunk and printed.
    #[arg(long, default_value_t = 10)]
    print: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let key = |flag: &str, key: &Option<String>| {
        key.as_ref().map(|key| format!(" --{flag}-key {key}")).unwrap_or_default()
    };
    let data = arguments.data.as_ref().map(|path| format!(" --data {}", path.display()));
    let replay = format!(
        "cargo run -p miroir-tests --bin oracle -- --reference {}{} --subject {}{} --documents {}{}",
        arguments.reference,
        key("reference", &arguments.reference_key),
        arguments.subject,
        key("subject", &arguments.subject_key),
        arguments.documents,
        data.unwrap_or_default(),
    );
    let servers = Servers {
        reference: Api::new(&arguments.reference, arguments.reference_key.as_deref()),
        subject: Api::new(&arguments.subject, arguments.subject_key.as_deref()),
    };
    let options = Options {
        seed: arguments.seed,
        queries: arguments.queries,
        only: arguments.only,
        data: arguments.data.unwrap_or_else(shipped_movies),
        documents_max: arguments.documents,
        load: !arguments.no_load,
        reverse_subject: arguments.reverse_subject,
        printed_max: arguments.print,
        replay,
    };
    match run(&servers, &options).await {
        Ok(summary) => {
            println!("seed {}\n{}", options.seed, summary.report());
            if summary.agrees() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(fault) => {
            eprintln!("oracle: {fault}");
            ExitCode::from(2)
        }
    }
}
