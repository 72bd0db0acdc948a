//! Reads an HTTP/1.1 answer as its bytes come in (RFC 9112): the head, and where the body ends.
//!
//! Nothing here waits or does I/O. The head is parsed by `httparse`, of which this file adds the meaning of the fields that
//! frame the body. The body is not kept: each piece of it is given to the caller, who decides.

use thiserror::Error;

/// The size, in bytes, of the largest head. It is checked after each read, so a longer one may pass if its end comes with the
/// same read.
pub(super) const HEAD_MAX: usize = 64 << 10;

/// The largest number of fields in a head.
const FIELDS_MAX: usize = 100;

/// The size, in bytes, of the longest line between two chunks of a body, and of all its trailer fields together.
const CHUNK_LINE_MAX: u32 = 16 << 10;

/// Why something is not the answer that it should be.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum AnswerError {
    #[error("the answer's head has more than {} KiB or {FIELDS_MAX} fields", HEAD_MAX >> 10)]
    HeadTooLarge,
    #[error("the answer is not HTTP: {0}")]
    NotHttp(String),
}

fn not_http(what: impl Into<String>) -> AnswerError {
    AnswerError::NotHttp(what.into())
}

/// The head of an answer, as far as a probe needs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Its length in bytes, with the empty line.
    pub(super) length: usize,
    /// The field Location.
    pub(super) location: Option<String>,
    /// Whether the body is compressed with gzip.
    pub(super) gzip: bool,
    pub(super) framing: Framing,
}

/// What says where a body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Its length, which may be 0.
    Length(u64),
    Chunked,
    /// The end of the connection.
    UntilClose,
}

impl Head {
    /// Reads a head from the beginning of `bytes`; nothing where it is not complete yet.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, AnswerError> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(AnswerError::HeadTooLarge),
            Err(error) => return Err(not_http(error.to_string())),
        };
        let status = response.code.expect("a complete head has a status");
        let field = |name: &'static str| {
            let named = response.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
            named.map(|field| field.value)
        };
        let last_coding = |name| field(name).next_back().and_then(|value| value.rsplit(|byte| *byte == b',').next());
        let is = |coding: Option<&[u8]>, name: &str| {
            coding.is_some_and(|c| c.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
        };
        let transfer_coding = last_coding("transfer-encoding");
        let framing = match status {
            100..=199 | 204 | 304 => Framing::Length(0),
            _ if transfer_coding.is_some() && response.version == Some(0) => {
                return Err(not_http("HTTP/1.0 with Transfer-Encoding"));
            }
            _ if is(transfer_coding, "chunked") => Framing::Chunked,
            _ if transfer_coding.is_some() => Framing::UntilClose,
            _ => length_of_body(field("content-length"))?.map_or(Framing::UntilClose, Framing::Length),
        };
        let content_coding = last_coding("content-encoding");
        Ok(Some(Self {
            status,
            length,
            location: field("location").next().and_then(|value| String::from_utf8(value.to_vec()).ok()),
            gzip: is(content_coding, "gzip") || is(content_coding, "x-gzip"),
            framing,
        }))
    }

    /// Whether another head follows this one (RFC 9110 section 15.2). A switch of protocols does not, as none was asked for.
    pub(super) const fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }
}

/// The value of Content-Length, which may be given more than once if it is always the same.
fn length_of_body<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, AnswerError> {
    let read = |value: &[u8]| {
        let text =
            str::from_utf8(value).ok().map(str::trim).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        text.and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| not_http("invalid Content-Length"))
    };
    let Some(first) = values.next() else { return Ok(None) };
    let length = read(first)?;
    for value in values {
        if read(value)? != length {
            return Err(not_http("two different values of Content-Length"));
        }
    }
    Ok(Some(length))
}

/// The body of an answer while it comes in.
#[derive(Debug)]
pub(super) struct Body {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are still to come.
    Length(u64),
    UntilClose,
    Chunked(Chunked),
    Complete,
}

/// Where in the chunked coding (RFC 9112 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunked {
    Size {
        size: u64,
        digits: u32,
    },
    /// The rest of the line with the size, of which so many bytes have come.
    Extension {
        size: u64,
        length: u32,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataEnd,
    /// The beginning of a trailer field or of the last line, with the bytes of all trailer fields so far.
    TrailerStart {
        length: u32,
    },
    Trailer {
        length: u32,
    },
    TrailerEnd {
        length: u32,
    },
    LastEnd,
}

impl Body {
    pub(super) const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Complete,
            Framing::Length(length) => State::Length(length),
            Framing::UntilClose => State::UntilClose,
            Framing::Chunked => State::Chunked(Chunked::Size { size: 0, digits: 0 }),
        };
        Self { state }
    }

    /// Whether it has come to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Whether the end of the connection now would be its end.
    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::Complete | State::UntilClose)
    }

    /// Takes in what the connection brought next and gives the content in it to `content`. What follows the end of the body
    /// is ignored.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut content: impl FnMut(&[u8])) -> Result<(), AnswerError> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Complete => return Ok(()),
                State::UntilClose => {
                    content(bytes);
                    return Ok(());
                }
                State::Length(left) => {
                    let (part, rest) = split(bytes, *left);
                    content(part);
                    *left -= part.len() as u64;
                    bytes = rest;
                    if *left == 0 {
                        self.state = State::Complete;
                    }
                }
                State::Chunked(Chunked::Data { left }) => {
                    let (part, rest) = split(bytes, *left);
                    content(part);
                    *left -= part.len() as u64;
                    bytes = rest;
                    if *left == 0 {
                        self.state = State::Chunked(Chunked::DataReturn);
                    }
                }
                State::Chunked(at) => {
                    self.state = at.after(bytes[0])?.map_or(State::Complete, State::Chunked);
                    bytes = &bytes[1..];
                }
            }
        }
        Ok(())
    }
}

/// The first `length` bytes, or all if there are fewer, and the rest.
fn split(bytes: &[u8], length: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len()))
}

impl Chunked {
    /// The state after a byte outside of a chunk's data; nothing after the last one of all.
    fn after(self, byte: u8) -> Result<Option<Self>, AnswerError> {
        let longer = |length: u32| {
            if length < CHUNK_LINE_MAX { Ok(length + 1) } else { Err(not_http("too long a line in the chunked body")) }
        };
        Ok(Some(match (self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).expect("a hexadecimal digit");
                let size = size.checked_mul(16).ok_or_else(|| not_http("too large a chunk"))? + u64::from(digit);
                Self::Size { size, digits: longer(digits)? }
            }
            (Self::Size { size, digits: 1.. }, b'\r') | (Self::Extension { size, .. }, b'\r') => Self::SizeEnd { size },
            (Self::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => Self::Extension { size, length: 0 },
            (Self::Extension { size, length }, _) if byte != b'\n' => Self::Extension { size, length: longer(length)? },
            (Self::SizeEnd { size: 0 }, b'\n') => Self::TrailerStart { length: 0 },
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataReturn, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::TrailerStart { .. }, b'\r') => Self::LastEnd,
            (Self::LastEnd, b'\n') => return Ok(None),
            (Self::Trailer { length }, b'\r') => Self::TrailerEnd { length },
            (Self::TrailerEnd { length }, b'\n') => Self::TrailerStart { length },
            (Self::TrailerStart { length } | Self::Trailer { length }, _) if byte != b'\n' => {
                Self::Trailer { length: longer(length)? }
            }
            _ => return Err(not_http("invalid chunked body")),
        }))
    }
}

#[cfg(test)]
mod tests;
