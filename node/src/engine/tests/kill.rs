//! A real process that is really killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

const DIRECTORY_VARIABLE: &str = "MIROIR_NODE_KILL_TEST";
const TASKS: u32 = 6;
const DOCUMENTS_PER_TASK: u32 = 400;

fn documents(task: u32) -> Value {
    let first = task * DOCUMENTS_PER_TASK;
    let text = |n: u32| format!("word{} word{} number {n}", n % 97, n % 1009);
    (first..first + DOCUMENTS_PER_TASK).map(|n| json!({"id": n, "text": text(n)})).collect()
}

/// Not a test: what the killed process does.
#[test]
#[ignore = "run by killed_while_indexing_loses_no_enqueued_task"]
fn enqueue_and_say_so() {
    let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) else { return };
    let engine = open(Path::new(&directory), config(true));
    for task in 0..TASKS {
        let task = engine.enqueue(addition("a", documents(task)), None).expect("accepted");
        println!("accepted={}", task.uid);
    }
    // Killed here, or earlier.
    loop {
        std::thread::park();
    }
}

#[test]
fn killed_while_indexing_loses_no_enqueued_task() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "engine::tests::kill::enqueue_and_say_so", "--ignored", "--nocapture"])
        .env(DIRECTORY_VARIABLE, directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let accepted = output
        .lines()
        .map_while(Result::ok)
        .filter(|line| line.contains("accepted="))
        .take(TASKS as usize)
        .count();
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert_eq!(accepted, TASKS as usize);

    let patient = EngineConfig { lock_patience: Duration::from_secs(10), ..config(true) };
    let node = Node { engine: Some(open(directory.path(), patient)), directory };
    for uid in 0..TASKS {
        assert_eq!(node.ended(uid).error, None);
    }
    assert_eq!(node.count("a"), u64::from(TASKS * DOCUMENTS_PER_TASK));
}
