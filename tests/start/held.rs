//! A directory that another process works in.

use testbed::{Herald, free_port, until};

/// Another of the same on ports of its own: it has to name the key and the first one's number, and to leave.
fn a_second_is_refused(first: &Herald, ports: &[&str], key: &str) {
    let addresses: Vec<String> = ports.iter().map(|_| listen()).collect();
    let addresses = addresses.iter().map(String::as_str);
    let settings: Vec<_> = ports.iter().copied().zip(addresses).collect();
    let mut second = first.twin(&settings);
    second.start();
    let status = second.wait();
    let said = second.log();
    assert_eq!(status.code(), Some(64), "{said}");
    let holder = format!("another Herald process ({})", first.pid());
    assert!(said.contains(key) && said.contains(&holder), "{said}");
    assert!(first.is_running(), "{}", first.log());
}

fn listen() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[test]
fn two_dispatchers_may_share_a_store_but_not_a_spool() {
    let place = tempfile::tempdir().unwrap();
    let [store, spool, own] = ["store", "spool", "own"].map(|name| {
        let path = place.path().join(name);
        path.to_str().unwrap().to_owned()
    });
    let ports = ["http.listen", "admin.listen", "grpc.listen"];
    let (http, admin, grpc) = (listen(), listen(), listen());
    let settings = [
        ("http.listen", http.as_str()),
        ("admin.listen", &admin),
        ("grpc.listen", &grpc),
        // Nobody is there, and nobody is needed.
        ("redis.url", "redis://127.0.0.1:1"),
        ("kafka.brokers", "127.0.0.1:1"),
        ("store.path", &store),
        ("spool.path", &spool),
    ];
    let mut first = Herald::new(&["dispatcher"], &settings);
    first.start();
    let listens = |herald: &Herald| herald.log().contains("dispatcher listens");
    until("it listens", || listens(&first), || first.log());
    a_second_is_refused(&first, &ports, "spool.path");

    let (http, admin, grpc) = (listen(), listen(), listen());
    let apart = [
        ("http.listen", http.as_str()),
        ("admin.listen", &admin),
        ("grpc.listen", &grpc),
        ("spool.path", &own),
    ];
    let mut second = first.twin(&apart);
    second.start();
    until("it listens", || listens(&second), || second.log());
}

#[test]
fn a_standalone_s_directory_is_its_own() {
    let data = tempfile::tempdir().unwrap();
    let ports = ["http.listen", "admin.listen", "gateway.listen"];
    let (http, admin, clients) = (listen(), listen(), listen());
    let settings = [
        ("http.listen", http.as_str()),
        ("admin.listen", &admin),
        ("gateway.listen", &clients),
        ("gateway.cores", "1"),
        ("gateway.pin", "false"),
    ];
    let path = data.path().to_str().unwrap();
    let mut first = Herald::new(&["standalone", "--data", path], &settings);
    first.start();
    let is_up = || data.path().join("ctl.json").exists();
    until("it is up", is_up, || first.log());
    a_second_is_refused(&first, &ports, "store.path");
}
