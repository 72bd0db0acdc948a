use proptest::prelude::*;

use super::*;

fn head(text: &str) -> Head {
    Head::parse(text.as_bytes()).unwrap().unwrap_or_else(|| panic!("{text:?} is complete"))
}

#[test]
fn the_framing_of_a_body_follows_from_status_version_and_fields() {
    use Framing::{Chunked, Length, UntilClose};
    let table = [
        ("HTTP/1.1 200 OK\r\n\r\n", UntilClose),
        ("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", Length(5)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nCONTENT-LENGTH:  5 \r\n\r\n", Length(5)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Chunked),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 5\r\n\r\n", Chunked),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n", UntilClose),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Length(0)),
        ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", Length(0)),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Length(0)),
        ("HTTP/1.0 200 OK\r\n\r\n", UntilClose),
        ("HTTP/1.0 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n", Length(u64::MAX)),
    ];
    for (text, framing) in table {
        let head = head(text);
        assert_eq!((head.framing, head.length), (framing, text.len()), "{text}");
    }
}

#[test]
fn a_head_tells_the_rest_that_a_probe_needs() {
    let text = "HTTP/1.1 302 Found\r\nLocation: /x\r\nLocation: /y\r\nContent-Encoding: X-GZIP\r\nContent-Length: 0\r\n\r\nabc";
    let expected = Head {
        status: 302,
        length: text.len() - 3,
        location: Some("/x".into()),
        gzip: true,
        framing: Framing::Length(0),
    };
    assert_eq!(head(text), expected);
    assert!(!head("HTTP/1.1 200 OK\r\nContent-Encoding: gzip, br\r\n\r\n").gzip);
    let interim = |status| head(&format!("HTTP/1.1 {status} S\r\n\r\n")).is_interim();
    assert_eq!([100, 101, 103, 199, 200].map(interim), [true, false, true, true, false]);
}

#[test]
fn what_frames_a_body_in_two_ways_at_once_is_not_http() {
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: -5",
        "Content-Length: +5",
        "Content-Length: ",
        "Content-Length: 18446744073709551616",
    ] {
        let found = Head::parse(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").as_bytes());
        assert!(matches!(found, Err(AnswerError::NotHttp(_))), "{fields}: {found:?}");
    }
}

/// The content of a body that comes in pieces of `size` bytes, and whether it is complete.
fn body(framing: Framing, text: &str, size: usize) -> Result<(String, bool), AnswerError> {
    let (mut body, mut content) = (Body::new(framing), Vec::new());
    for piece in text.as_bytes().chunks(size) {
        body.feed(piece, |part| content.extend_from_slice(part))?;
    }
    Ok((String::from_utf8(content).unwrap(), body.is_complete()))
}

#[test]
fn a_body_is_the_same_in_whatever_pieces_it_comes() {
    use Framing::{Chunked, Length, UntilClose};
    let table = [
        (Length(3), "abcdef", "abc", true),
        (Length(9), "abcdef", "abcdef", false),
        (Length(0), "abc", "", true),
        (UntilClose, "abc", "abc", false),
        (Chunked, "2\r\nab\r\n4\r\ncd\r\n\r\n0\r\n\r\nrest", "abcd\r\n", true),
        (Chunked, "02;name=\"value\"\r\nab\r\n0 \r\nTrailer: x\r\nOther: y\r\n\r\n", "ab", true),
        (Chunked, "A\r\n0123456789\r\n000\r\n\r\n", "0123456789", true),
        (Chunked, "2\r\nab\r\n0\r\n", "ab", false),
        (Chunked, "2\r\nab\r\n0\r\nTrailer: x\r\n", "ab", false),
        (Chunked, "5\r\nab", "ab", false),
        (Chunked, "", "", false),
    ];
    for (framing, text, content, complete) in table {
        for size in 1..=text.len().max(1) {
            assert_eq!(body(framing, text, size), Ok((content.to_owned(), complete)), "{text:?} in pieces of {size}");
        }
    }
}

#[test]
fn a_body_that_breaks_the_chunked_coding_is_not_http() {
    for text in [
        "\r\n",
        "x\r\n",
        "2\nab\r\n",
        "2\r\nabc\r\n",
        "2\r\nab\n",
        "-2\r\n",
        "0\r\n\n",
        "0\r\nTrailer: x\n",
        "10000000000000000\r\n",
    ] {
        for size in 1..=text.len() {
            let found = body(Framing::Chunked, text, size);
            assert!(matches!(found, Err(AnswerError::NotHttp(_))), "{text:?} in pieces of {size}: {found:?}");
        }
    }
    let endless =
        ["0".repeat(20_000), format!("1;{}", "x".repeat(20_000)), format!("0\r\n{}", "T: x\r\n".repeat(5_000))];
    for text in endless {
        assert!(matches!(body(Framing::Chunked, &text, 1_000), Err(AnswerError::NotHttp(_))), "{text:.20}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), size in 1_usize..50) {
        let _ = Head::parse(&bytes);
        let mut body = Body::new(Framing::Chunked);
        let mut length = 0;
        for piece in bytes.chunks(size) {
            if body.feed(piece, |content| length += content.len()).is_err() {
                break;
            }
        }
        prop_assert!(length <= bytes.len());
    }

    #[test]
    fn what_is_chunked_comes_out_as_it_went_in(
        chunks in proptest::collection::vec("[a-z\r\n]{1,40}", 0..8),
        size in 1_usize..60,
    ) {
        let text: String = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
        let found = body(Framing::Chunked, &format!("{text}0\r\n\r\n"), size);
        prop_assert_eq!(found, Ok((chunks.concat(), true)));
    }
}
