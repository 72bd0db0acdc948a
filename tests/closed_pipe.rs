//! Commands whose output nobody reads to its end, as in `netring check netring.yaml | head -1`: the exit code is that of the
//! command, and nothing panics.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

/// Runs `netring` with its stdout, and with `both` also its stderr, connected to a pipe that nobody reads. Returns the exit
/// code.
fn unread(args: &[&str], both: bool) -> Option<i32> {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let stderr = if both { closed() } else { Stdio::piped() };
    let command = Command::new(env!("CARGO_BIN_EXE_netring"))
        .args(args)
        .env_remove("RUNTIME_DIRECTORY")
        .stdin(Stdio::null())
        .stdout(closed())
        .stderr(stderr)
        .spawn();
    let output = command.unwrap().wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    output.status.code()
}

#[test]
fn the_exit_code_of_every_command_is_its_own_when_nobody_reads_its_output() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            if stream.read(&mut request).is_ok_and(|length| length > 0) {
                let body = r#"{"status": "unhealthy", "instance_id": "a", "members": []}"#;
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + body).as_bytes());
            }
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let registry = file("registry.yaml", "registry: {}\n".into());
    let wrong = file("wrong.yaml", "registry: {colour: red}\n".into());
    let member = file("member.yaml", format!("member:\n  server: {{host: 127.0.0.1, port: {}}}\n", open.port()));
    let silent = file("silent.yaml", format!("member:\n  server: {{host: 127.0.0.1, port: {}}}\n", closed.port()));
    let [open, closed] = [open, closed].map(|address| address.to_string());
    let [open_url, closed_url] = [&open, &closed].map(|address| format!("http://{address}"));
    let cases: [(&[&str], i32); 17] = [
        (&["probe", "tcp", &open], 0),
        (&["probe", "tcp", &closed], 1),
        (&["probe", "tcp", &closed, "--json"], 1),
        (&["probe", "http", &open_url], 0),
        (&["probe", "tcp", "nonsense"], 64),
        (&["check", &registry], 0),
        (&["check", &wrong], 78),
        (&["check", "--json", &wrong], 78),
        (&["healthcheck", &member], 0),
        (&["healthcheck", &silent], 1),
        (&["status", "--registry", &open_url], 0),
        (&["status", "--registry", &closed_url], 69),
        (&["reload", "1"], 69),
        (&["man"], 0),
        (&["completions", "bash"], 0),
        (&["--help"], 0),
        (&["regsitry"], 64),
    ];
    for (args, code) in cases {
        for both in [false, true] {
            assert_eq!(unread(args, both), Some(code), "{args:?}, stderr closed too: {both}");
        }
    }
}
