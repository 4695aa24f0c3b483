//! The layers and the refusals, through the same door as the program.

use super::*;

mod cluster;

const MINIMAL: &str = "master_key: 0123456789abcdef\nnodes:\n  - id: a\n    url: http://h:1\n";

fn load(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("miroir.yaml");
    std::fs::write(&file, text).expect("written");
    let flags: Vec<FlagValue> = flags
        .iter()
        .map(|(path, text)| FlagValue {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
            flag: "--set".to_owned(),
        })
        .collect();
    let variables = variables.iter().map(|(name, text)| (name.into(), text.into()));
    Config::load(Some(&file), variables, &flags).map_err(|error| error.to_string())
}

#[track_caller]
fn assert_refused(text: &str, expected: &[&str]) {
    let error = load(text, &[], &[]).expect_err("refused");
    for part in expected {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn printed_defaults_are_the_defaults() {
    let printed = Sources::parse(DEFAULTS_YAML, Format::Yaml).expect("valid").value();
    let defaults = serde_json::to_value(Config::default()).expect("serialises");
    assert_eq!(printed, defaults);
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let text = format!("{MINIMAL}cluster:\n  shards: 8\n  replication_factor: 1\n");
    let variable = [("MIROIR_CLUSTER_SHARDS", "16")];
    assert_eq!(load(&text, &[], &[]).map(|c| c.cluster.shards), Ok(8));
    assert_eq!(load(&text, &variable, &[]).map(|c| c.cluster.shards), Ok(16));
    let flag = [("cluster.shards", "32")];
    assert_eq!(load(&text, &variable, &flag).map(|c| c.cluster.shards), Ok(32));
}

#[test]
fn unknown_keys_are_refused_with_line_and_hint() {
    assert_refused(
        "server:\n  http_adr: 127.0.0.1:1\n",
        &["line 2", "server.http_adr", "did you mean http_addr?"],
    );
    assert_refused("nodes:\n  - id: a\n    bogus: 1\n", &["line 3", "nodes.0.bogus", "known here"]);
    let error = load(MINIMAL, &[("MIROIR_CLUSTER_SHARD", "1")], &[]).expect_err("refused");
    assert!(error.contains("did you mean MIROIR_CLUSTER_SHARDS?"), "{error}");
}

#[test]
fn values_of_the_wrong_kind_are_refused_with_their_line() {
    assert_refused("cluster:\n  shards: many\n", &["line 2", "cluster.shards"]);
    assert_refused("health:\n  interval: 5\n", &["line 2", "health.interval", "5s"]);
    assert_refused("nodes:\n  - id: a\n", &["line 2", "nodes.0", "url"]);
}

#[test]
fn impossible_combinations_are_refused_with_their_line() {
    assert_refused(
        &format!("{MINIMAL}cluster:\n  replication_factor: 2\n"),
        &["line 6", "2 copies don't fit in group 0, which has 1 node"],
    );
    assert_refused(
        "master_key: 0123456789abcdef\nnodes:\n- {id: a, url: 'http://h:1'}\n- {id: a, url: 'http://h:2'}\n",
        &["line 4", "nodes.1.id", "also the id of nodes.0"],
    );
    assert_refused(
        &format!("{MINIMAL}health:\n  timeout: 9s\n"),
        &["line 6", "at most health.interval"],
    );
    assert_refused(
        "master_key: short\n",
        &["line 1", "5 bytes are too few", "nodes: there is none"],
    );
    assert_refused(
        "master_key: 0123456789abcdef\nnodes:\n- {id: a, url: 'https://h:1'}\n",
        &["line 3", "https"],
    );
}

#[test]
fn keys_are_not_taken_from_flags() {
    let error = load(MINIMAL, &[], &[("master_key", "0123456789abcdef")]).expect_err("refused");
    assert!(error.contains("MIROIR_MASTER_KEY"), "{error}");
}

#[test]
fn keys_come_from_files_and_reach_nodes_without_one() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(folder.path().join("m"), "0123456789abcdef\n").expect("written");
    let file = folder.path().join("miroir.toml");
    let text = "master_key_file = \"m\"\nnode_key = \"all\"\n\
                [[nodes]]\nid = \"a\"\nurl = \"http://h:1\"\n\
                [[nodes]]\nid = \"b\"\nurl = \"http://h:2\"\nkey = \"own\"\n";
    std::fs::write(&file, text).expect("written");
    let config = Config::load(Some(&file), [], &[]).expect("valid");
    assert_eq!(config.master_key, Some(Secret::new("0123456789abcdef")));
    let keys: Vec<&str> =
        config.nodes.iter().filter_map(|node| node.key.as_ref()).map(Secret::reveal).collect();
    assert_eq!(keys, ["all", "own"]);
}

#[test]
fn examples_are_valid() {
    let keys = [
        ("MIROIR_MASTER_KEY", "0123456789abcdef"),
        ("MIROIR_ADMIN_KEY", "fedcba9876543210"),
        ("MIROIR_NODE_KEY", "node key"),
    ];
    let secret = ("MIROIR_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef");
    for (name, secret) in
        [("miroir.yaml", None), ("miroir.toml", None), ("three-pods.yaml", Some(secret))]
    {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/examples").join(name);
        let given = keys.into_iter().chain(secret);
        let variables = given.map(|(name, text)| (name.into(), text.into()));
        let config = Config::load(Some(&file), variables, &[]).expect("valid");
        assert!(config.nodes.iter().all(|node| node.key.is_some()), "{name}");
    }
}

#[test]
fn variables_of_others_are_left_alone() {
    let others = [
        ("MIROIR_SERVICE_HOST", "10.0.0.1"),
        ("MIROIR_PORT_7700_TCP_ADDR", "10.0.0.1"),
        ("MIROIR_TEST_SEED", "1"),
        ("MIROIR_URL", "http://127.0.0.1:7700"),
        ("PATH", "/bin"),
    ];
    load(MINIMAL, &others, &[]).expect("valid");
}

#[test]
fn written_configuration_reads_back_equal() {
    let config = load(MINIMAL, &[], &[]).expect("valid");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("miroir.toml");
    std::fs::write(&file, config.to_toml().expect("serialises")).expect("written");
    assert_eq!(Config::load(Some(&file), [], &[]).expect("valid"), config);
}
