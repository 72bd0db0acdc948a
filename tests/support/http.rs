//! A small blocking HTTP client that follows nothing, keeps nothing open, and hides no status.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        assert!(
            self.header("content-type").is_some_and(|t| t.starts_with("application/json")),
            "expected JSON, got {self:?}"
        );
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("expected JSON ({e}), got {}", self.text()))
    }

    /// The text of an error body; fails the test where the answer has another status or another shape.
    #[must_use]
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        let body = self.json();
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "an error body has one field: {body}");
        body["error"].as_str().unwrap_or_else(|| panic!("no text in {body}")).to_owned()
    }
}

/// A request with headers and a body.
///
/// # Errors
///
/// Why there was no answer.
pub fn request(
    method: &str,
    server: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer, String> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "POST" {
        head += &format!("content-length: {}\r\n", body.len());
    }
    head += "\r\n";
    raw(server, &[head.as_bytes(), body].concat()).map_err(|e| format!("{method} http://{server}{path}: {e}"))
}

/// Sends these bytes as they are and reads one answer.
///
/// # Errors
///
/// Why there was no answer, or none that is HTTP.
pub fn raw(server: SocketAddr, bytes: &[u8]) -> Result<Answer, String> {
    let limit = Duration::from_secs(10);
    let mut received = Vec::new();
    let mut stream = TcpStream::connect_timeout(&server, limit).map_err(|e| format!("cannot connect: {e}"))?;
    let outcome = stream
        .set_read_timeout(Some(limit))
        .and_then(|()| stream.set_write_timeout(Some(limit)))
        .and_then(|()| stream.write_all(bytes))
        .and_then(|()| stream.read_to_end(&mut received));
    // A server that refuses a large body may reset the connection after its answer: the answer still counts.
    match (outcome, parse(&received)) {
        (_, Some(answer)) => Ok(answer),
        (Err(e), None) => Err(format!("broken off after {} bytes: {e}", received.len())),
        (Ok(_), None) => Err(format!("no HTTP: {:?}", String::from_utf8_lossy(&received))),
    }
}

fn parse(received: &[u8]) -> Option<Answer> {
    let end = received.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&received[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: received[end + 4..].to_vec() };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = joined_chunks(&answer.body)?;
    }
    match answer.header("content-length").map(str::parse::<usize>) {
        Some(length) if length != Ok(answer.body.len()) => None,
        _ => Some(answer),
    }
}

fn joined_chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + length)?);
        rest = rest.get(end + 2 + length + 2..)?;
    }
}

/// `GET path`.
///
/// # Errors
///
/// Why there was no answer.
pub fn get(server: SocketAddr, path: &str) -> Result<Answer, String> {
    request("GET", server, path, &[], b"")
}

/// `POST path` with this JSON text.
///
/// # Errors
///
/// Why there was no answer.
pub fn post(server: SocketAddr, path: &str, json: &str) -> Result<Answer, String> {
    request("POST", server, path, &[("content-type", "application/json")], json.as_bytes())
}
