//! Who answered: what the health of a member says of its location and identity.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::GzDecoder;
use serde::Deserialize;

use crate::probe::Answerer;

/// What is read of the health of a member. Texts are borrowed where they can be, because this is read for every probe.
#[derive(Deserialize)]
struct Health<'a> {
    #[serde(borrow, default)]
    location: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    instance_id: Option<Cow<'a, str>>,
}

/// Whether the answer to this request target is the health of a member.
pub(super) fn is_health(endpoint: &str) -> bool {
    endpoint.split('?').next() == Some("/health")
}

/// Reads who answered from the body of an answer to `/health`, decompressed to at most `limit` bytes. Nothing where the body is
/// not complete or says neither, as with other programs.
pub(super) fn read(body: &[u8], gzip: bool, limit: usize) -> Option<Answerer> {
    let body = if gzip {
        let mut plain = Vec::new();
        GzDecoder::new(body).take(limit as u64).read_to_end(&mut plain).ok()?;
        Cow::Owned(plain)
    } else {
        Cow::Borrowed(body)
    };
    // A struct could be read from an array, too.
    if !body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let Health { location, instance_id } = serde_json::from_slice(&body).ok()?;
    let location = location.and_then(|text| text.parse().ok());
    let instance_id = instance_id.and_then(|text| text.parse().ok());
    (location.is_some() || instance_id.is_some()).then_some(Answerer { location, instance_id })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    #[test]
    fn only_the_health_endpoint_names_its_program() {
        for (endpoint, expected) in [
            ("/health", true),
            ("/health?verbose=1", true),
            ("/healthz", false),
            ("/health/", false),
            ("/metrics", false),
            ("/", false),
            ("/a?/health", false),
        ] {
            assert_eq!(is_health(endpoint), expected, "{endpoint}");
        }
    }

    #[test]
    fn the_answerer_is_what_the_body_says_and_nothing_where_it_says_nothing() {
        let who =
            |body: &str| read(body.as_bytes(), false, 1024).map(|answerer| (answerer.location, answerer.instance_id));
        let (eu1, a) = (Some("eu1".parse().unwrap()), Some("a".parse().unwrap()));
        let table = [
            (
                r#"{"status": "healthy", "instance_id": "a", "location": "eu1", "x": [1]}"#,
                Some((eu1.clone(), a.clone())),
            ),
            (r#"{"location": "eu1"}"#, Some((eu1.clone(), None))),
            (r#"{"instance_id": "a", "location": null}"#, Some((None, a))),
            (r#"{"location": "\u0065u1", "instance_id": ""}"#, Some((eu1, None))),
            (r#"{"instance_id": "a", "location": 5}"#, None),
            (r#"{"status": "healthy", "store": "embedded"}"#, None),
            (r#"{"location": ["eu1"]}"#, None),
            (r#"["location", "eu1"]"#, None),
            (r#"{"location": "eu1"#, None),
            ("<html>", None),
            ("", None),
        ];
        for (body, expected) in table {
            assert_eq!(who(body), expected, "{body}");
        }
    }

    #[test]
    fn a_compressed_body_is_read_up_to_the_limit() {
        let zipped = |text: &str| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let small = zipped(r#"{"location": "eu1"}"#);
        assert!(read(&small, true, 1024).is_some());
        assert!(read(&small, true, 10).is_none());
        assert!(read(&small, false, 1024).is_none());
        // A few KiB on the wire, 16 MiB in memory if it were decompressed in full.
        let bomb = zipped(&format!(r#"{{"location": "eu1"{}}}"#, " ".repeat(16 << 20)));
        assert!(bomb.len() < 32 << 10 && read(&bomb, true, 16 << 10).is_none());
    }
}
