//! What a pod must know to be one of several.

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OLD: &str = "fedcba9876543210fedcba9876543210";

/// [`MINIMAL`], its last line being 4, with `more` from line 5.
fn with(more: &str) -> String {
    format!("{MINIMAL}{more}")
}

/// With an id, since every pod of several needs one.
fn load(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    let mut variables = variables.to_vec();
    variables.push(("MIROIR_POD_ID", "pod-2"));
    super::load(text, &variables, flags)
}

#[test]
fn an_id_that_every_pod_would_have_is_refused() {
    let text = format!("pod:\n  data: x\ncluster:\n  secret: {SECRET}\n");
    assert_refused(&with(&text), &["line 5: pod.id: it must be set"]);
    load(&with(&text), &[], &[]).expect("valid with an id");
}

#[test]
fn a_pod_without_secret_is_alone() {
    let config = load(MINIMAL, &[], &[]).expect("valid");
    assert!(config.is_alone());
    assert_eq!(config.cluster.secrets(), None);
    assert_eq!(config.reload_secrets(), Ok(None));
    assert_eq!(config.cluster.stale_policy, StalePolicy::Mark);
}

#[test]
fn whatever_speaks_of_other_pods_needs_a_secret() {
    for (text, line) in [
        ("cluster:\n  seeds: [localhost:1]\n", "line 6: cluster.seeds"),
        ("cluster:\n  pods_expected: 3\n", "line 6: cluster.pods_expected"),
        ("pod:\n  peer_addr: 10.0.0.1:7790\n", "line 6: pod.peer_addr"),
        (&format!("cluster:\n  old_secrets: [{OLD}]\n"), "line 6: cluster.old_secrets"),
    ] {
        assert_refused(&with(text), &[line, "cluster.secret is not set", "openssl rand -hex 32"]);
        let variables = [("MIROIR_CLUSTER_SECRET", SECRET)];
        load(&with(text), &variables, &[]).expect("valid with a secret");
    }
}

#[test]
fn short_secrets_are_refused_wherever_they_come_from() {
    let too_few = ["line 6", "5 characters are too few, 32 are needed"];
    assert_refused(&with("cluster:\n  secret: short\n"), &too_few);
    let text = format!("cluster:\n  old_secrets: [{OLD}, short]\n  secret: {SECRET}\n");
    assert_refused(&with(&text), &["line 6: cluster.old_secrets.1", "5 characters"]);
    let error = load(MINIMAL, &[("MIROIR_CLUSTER_SECRET", "short")], &[]).expect_err("refused");
    assert!(error.contains("variable MIROIR_CLUSTER_SECRET: cluster.secret"), "{error}");
}

#[test]
fn secrets_are_not_taken_from_flags() {
    for key in ["cluster.secret", "cluster.old_secrets"] {
        let error = load(MINIMAL, &[], &[(key, SECRET)]).expect_err("refused");
        assert!(error.contains("not taken from flags"), "{error}");
    }
}

#[test]
fn lists_in_variables_are_separated_by_commas_or_json() {
    for seeds in ["10.0.0.2:7790, pods.internal:7790", r#"["10.0.0.2:7790","pods.internal:7790"]"#]
    {
        let variables = [
            ("MIROIR_CLUSTER_SEEDS", seeds),
            ("MIROIR_CLUSTER_SECRET", SECRET),
            ("MIROIR_POD_PEER_ADDR", "10.0.0.1:7790"),
        ];
        let config = load(MINIMAL, &variables, &[]).expect("valid");
        assert_eq!(config.cluster.seeds, ["10.0.0.2:7790", "pods.internal:7790"]);
    }
}

#[test]
fn an_address_that_other_pods_can_t_use_is_refused() {
    let secret = format!("cluster:\n  secret: {SECRET}\n");
    for (pod, expected) in [
        ("peer_addr: 0.0.0.0:7790", "set pod.peer_advertise"),
        ("peer_addr: 127.0.0.1:0", "must know the port"),
        ("peer_addr: 127.0.0.1:7700", "clients connect to 127.0.0.1:7700"),
        ("peer_advertise: 0.0.0.0:7790", "can't connect to 0.0.0.0:7790"),
        ("peer_advertise: pod-1", "is not host:port"),
        ("peer_advertise: pod-1:0", "no port"),
        ("peer_advertise: 'http://pod-1:7790'", "is not host:port"),
        ("peer_advertise: '::1:7790'", "is not host:port"),
    ] {
        let text = format!("{secret}pod:\n  {pod}\n");
        assert_refused(&with(&text), &["line 8: pod.peer_a", expected]);
    }
    for pod in ["pod-1.internal:7790", "10.0.0.1:7790", "'[fd00::1]:7790'"] {
        let text = format!("{secret}pod:\n  peer_addr: 0.0.0.0:7790\n  peer_advertise: {pod}\n");
        let config = load(&with(&text), &[], &[]).expect("valid");
        assert_eq!(config.pod.advertised_peer(), pod.trim_matches('\''));
    }
}

#[test]
fn seeds_on_other_machines_need_a_pod_that_they_can_reach() {
    let text = format!("cluster:\n  secret: {SECRET}\n  seeds:\n    - pod-2:7790\n");
    assert_refused(&with(&text), &["pod.peer_addr: pod-2:7790 can't reach this pod"]);
    assert_refused(&with(&text.replace(":7790", "")), &["line 8: cluster.seeds.0", "host:port"]);
    load(&with(&text.replace("pod-2", "127.0.0.1")), &[], &[]).expect("valid");
    let pod = "pod:\n  peer_addr: 10.0.0.1:7790\n";
    load(&with(&format!("{text}{pod}")), &[], &[]).expect("valid");
}

#[test]
fn http_is_advertised_at_the_host_that_peers_know() {
    let text = format!(
        "cluster:\n  secret: {SECRET}\nserver:\n  http_addr: 0.0.0.0:7700\n\
         pod:\n  peer_addr: 0.0.0.0:7790\n  peer_advertise: pod-1:17790\n"
    );
    let config = load(&with(&text), &[], &[]).expect("valid");
    assert_eq!(config.advertised_http(), "pod-1:7700");
    assert_eq!(load(MINIMAL, &[], &[]).expect("valid").advertised_http(), "127.0.0.1:7700");
}

#[test]
fn impossible_patience_is_refused() {
    let secret = format!("cluster:\n  secret: {SECRET}\n");
    for (key, expected) in [
        ("pods_expected: 0", "between 1 and 64"),
        ("max_staleness: 100ms", "1s is the least"),
        ("pod_grace: 5s", "more than cluster.max_staleness"),
        ("node_grace: 10s", "1m is the least"),
        ("move_hours: 22-6", "is not like 22:00-06:00"),
        ("anti_entropy_interval: 10s", "1m is the least"),
        ("stale_policy: ignore", "stale_policy"),
    ] {
        assert_refused(&with(&format!("{secret}  {key}\n")), &["line 7", expected]);
    }
}

#[test]
fn secrets_in_files_are_read_again_and_bad_ones_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
    };
    write("current", &format!("{OLD}\n"));
    write("old", "");
    let text = "cluster:\n  secret_file: current\n  old_secrets_file: old\n";
    write("miroir.yaml", &with(text));
    let file = folder.path().join("miroir.yaml");
    let id = || [("MIROIR_POD_ID".into(), "pod-2".into())];
    let config = Config::load(Some(&file), id(), &[]).expect("valid");
    let only_old = ClusterSecrets { current: Secret::new(OLD), old: Vec::new() };
    assert_eq!(config.cluster.secrets(), Some(only_old));

    write("current", &format!("{SECRET}\n"));
    write("old", &format!("{OLD}\n\n{SECRET}\n{OLD}\n"));
    let both = ClusterSecrets { current: Secret::new(SECRET), old: vec![Secret::new(OLD)] };
    assert_eq!(config.reload_secrets(), Ok(Some(both)), "none twice");

    write("old", "short\n");
    let error = config.reload_secrets().expect_err("refused").to_string();
    assert!(error.contains("5 characters are too few"), "{error}");
    std::fs::remove_file(folder.path().join("current")).expect("removed");
    let error = config.reload_secrets().expect_err("refused").to_string();
    assert!(error.contains("cluster.secret_file") && error.contains("can't be read"), "{error}");

    write("miroir.yaml", &with(&format!("{text}  secret: {SECRET}\n")));
    write("current", SECRET);
    let error = Config::load(Some(&file), id(), &[]).expect_err("refused").to_string();
    assert!(error.contains("line 6: cluster.secret_file: cluster.secret is set too"), "{error}");
}
