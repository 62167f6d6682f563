//! `herald ctl erase` and `herald ctl export`, as an operator uses them.

use crate::ctl::{ctl, json};
use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Stdio},
};
use testbed::{Standalone, herald::binary};

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_exported_and_forgotten_from_a_shell() {
    let herald = Standalone::start(&[]).await;
    ctl(&herald, &["send", "--user", "42", "--title", "Shipped"]);
    herald
        .eventually("it is stored", async || {
            let export = json(&herald, &["export", "42"]);
            export["inbox"][0]["content"]["title"] == "Shipped"
        })
        .await;
    let done = json(&herald, &["erase", "42", "--wait"]);
    assert_eq!(done["state"], "done");
    assert_eq!(done["proof"]["removed"]["inbox"], 1);
    let export = json(&herald, &["export", "42"]);
    assert_eq!(export["inbox"], serde_json::json!([]));
    assert_eq!(export["deliveries"], serde_json::json!([]));
}

#[test]
fn an_export_that_breaks_off_is_an_error_and_no_user_of_whom_nothing_is_stored() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let chunk = r#"{"user":"42","inbox":["#;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let size = chunk.len();
    let answers = [
        format!("{head}transfer-encoding: chunked\r\n\r\n{size:x}\r\n{chunk}\r\n"),
        format!("{head}content-length: {size}\r\n\r\n{chunk}"),
    ];
    let serving = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            // The request is shorter.
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "one-that-nobody-guesses-in-a-hurry").unwrap();
    for told in ["broke off", "not as a dispatcher does"] {
        let export = Command::new(binary("herald"))
            .args(["ctl", "--url", &url, "export", "42", "--api-key-file"])
            .arg(key.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&export.stderr);
        assert_eq!(export.status.code(), Some(1), "{errors}");
        assert!(errors.contains(told), "{errors}");
        assert!(export.stdout.is_empty());
    }
    serving.join().unwrap();
}
