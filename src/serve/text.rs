//! The Prometheus text format, version 0.0.4, and pages in this format that are sent to several clients.
//!
//! [`Exposition`] writes metric families into a buffer. It escapes label values and HELP texts. A [`Page`] is a finished text. It
//! is compressed when the first client asks for gzip.

use std::io::Write as _;
use std::sync::OnceLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use warp::reply::Response;

/// The content type of a scrape.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type of a metric family, as in `# TYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only increases, and starts at 0 with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations counted in buckets; written with [`Exposition::histogram`].
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A set of labels, escaped once and used in many samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(String);

impl Labels {
    /// These labels in this order. Names must be valid label names; values may be any text.
    #[must_use]
    pub fn new(labels: &[(&str, &str)]) -> Self {
        let mut block = String::new();
        push_labels(&mut block, labels);
        Self(block)
    }
}

/// A text with metric families that is being written.
///
/// ```
/// use netring::serve::text::{Exposition, Kind};
///
/// let mut text = Exposition::new();
/// text.family("netring_members_total", Kind::Gauge, "Members of the ring that this one knows, itself left out.");
/// text.sample("netring_members_total", &[], 5.0);
/// assert!(text.finish().ends_with("\nnetring_members_total 5\n"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// An empty text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty text with this capacity in bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes) }
    }

    /// Starts a family: its HELP and TYPE lines. Its samples follow before the next family starts.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.text.push_str("# HELP ");
        self.text.push_str(name);
        self.text.push(' ');
        push_escaped(&mut self.text, help, false);
        self.text.push_str("\n# TYPE ");
        self.text.push_str(name);
        self.text.push(' ');
        self.text.push_str(kind.name());
        self.text.push('\n');
    }

    /// One sample.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        if !labels.is_empty() {
            self.text.push('{');
            push_labels(&mut self.text, labels);
            self.text.push('}');
        }
        self.end_line(value);
    }

    /// One sample with labels that were escaped before, all sets together.
    pub fn sample_with(&mut self, name: &str, labels: &[&Labels], value: f64) {
        self.text.push_str(name);
        self.push_blocks(labels);
        self.end_line(value);
    }

    /// One histogram: for each upper bound how many observations were at most that and above the bound before, then how
    /// many were above all bounds, and the sum of all. Bounds ascend; `counts` is one longer than `bounds`.
    pub fn histogram(&mut self, name: &str, labels: &Labels, bounds: &[f64], counts: &[u64], sum: f64) {
        debug_assert_eq!(counts.len(), bounds.len() + 1, "one count for each bound and one above them");
        let mut total = 0;
        for (bound, count) in bounds.iter().copied().chain([f64::INFINITY]).zip(counts) {
            total += count;
            self.text.push_str(name);
            self.text.push_str("_bucket{");
            if !labels.0.is_empty() {
                self.text.push_str(&labels.0);
                self.text.push(',');
            }
            self.text.push_str("le=\"");
            push_number(&mut self.text, bound);
            self.text.push_str("\"}");
            self.end_line(total as f64);
        }
        for (suffix, value) in [("_sum", sum), ("_count", total as f64)] {
            self.text.push_str(name);
            self.text.push_str(suffix);
            self.push_blocks(&[labels]);
            self.end_line(value);
        }
    }

    fn push_blocks(&mut self, labels: &[&Labels]) {
        let mut before = '{';
        for Labels(block) in labels.iter().filter(|labels| !labels.0.is_empty()) {
            self.text.push(before);
            self.text.push_str(block);
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
    }

    /// Appends whole families that are in this format already.
    pub fn append(&mut self, families: &str) {
        self.text.push_str(families);
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn end_line(&mut self, value: f64) {
        self.text.push(' ');
        push_number(&mut self.text, value);
        self.text.push('\n');
    }
}

fn push_labels(text: &mut String, labels: &[(&str, &str)]) {
    for (name, value) in labels {
        push_label(text, name, value);
    }
}

/// Appends `name="value"`, after a comma unless it is the first of its block.
fn push_label(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() && !text.ends_with('{') {
        text.push(',');
    }
    text.push_str(name);
    text.push_str("=\"");
    push_escaped(text, value, true);
    text.push('"');
}

/// Backslash and line feed are escaped everywhere, the quote in label values only.
fn push_escaped(text: &mut String, raw: &str, quoted: bool) {
    let mut rest = raw;
    while let Some(at) = rest.find(|c| matches!(c, '\\' | '\n') || (quoted && c == '"')) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\n' => "\\n",
            b'"' => "\\\"",
            _ => "\\\\",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
}

fn push_number(text: &mut String, value: f64) {
    /// Below this every whole number has a float of its own, and `i64` holds it.
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    if value.is_nan() {
        text.push_str("NaN");
    } else if value.is_infinite() {
        text.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else if value.fract() == 0.0 && value.abs() < WHOLE {
        text.push_str(itoa::Buffer::new().format(value as i64));
    } else {
        text.push_str(zmij::Buffer::new().format_finite(value));
    }
}

/// A finished text that answers many requests.
#[derive(Debug)]
pub struct Page {
    plain: Bytes,
    gzip: OnceLock<Bytes>,
}

impl Page {
    /// A page with this text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self { plain: text.into(), gzip: OnceLock::new() }
    }

    /// The text's length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.plain.len()
    }

    /// Whether the text is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty()
    }

    /// The answer to a request with this `Accept-Encoding`. The first request that accepts gzip waits for the compression.
    #[must_use]
    pub fn reply(&self, accept_encoding: Option<&str>) -> Response {
        let gzip = accept_encoding.is_some_and(accepts_gzip);
        let body = if gzip { self.gzip.get_or_init(|| compressed(&self.plain)) } else { &self.plain };
        let mut response = Response::new(body.clone().into());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORMAT));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// Uses the fastest level: a page serves one or two scrapes, and compression blocks the thread that answers requests.
fn compressed(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 8), Compression::fast());
    encoder.write_all(plain).and_then(|()| encoder.finish()).expect("a Vec takes every byte").into()
}

/// Whether `Accept-Encoding` accepts gzip (RFC 9110 section 12.5.3): by name or by `*`, and not with a weight of 0.
fn accepts_gzip(accept_encoding: &str) -> bool {
    let mut any = false;
    for item in accept_encoding.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let wanted = weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            return wanted;
        }
        any |= coding == "*" && wanted;
    }
    any
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt as _;

    use super::*;

    fn line(labels: &[(&str, &str)], value: f64) -> String {
        let mut text = Exposition::new();
        text.sample("m", labels, value);
        text.finish()
    }

    #[test]
    fn numbers_are_written_as_prometheus_reads_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (5.0, "5"),
            (-3.0, "-3"),
            (0.25, "0.25"),
            (0.000_012_5, "0.0000125"),
            (2.5e-9, "2.5e-9"),
            (1_629_123_456.789, "1629123456.789"),
            (9_007_199_254_740_991.0, "9007199254740991"),
            (1e300, "1e+300"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ];
        for (value, written) in cases {
            assert_eq!(line(&[], value), format!("m {written}\n"));
            assert!(value.is_nan() || written.parse::<f64>().unwrap() == value, "{written} reads as another number");
        }
    }

    #[test]
    fn label_values_are_escaped_and_cannot_end_a_line() {
        assert_eq!(
            line(&[("a", "x\\y\"z\nw"), ("b", "größe {},=")], 1.0),
            "m{a=\"x\\\\y\\\"z\\nw\",b=\"größe {},=\"} 1\n"
        );
    }

    #[test]
    fn help_escapes_backslash_and_line_feed_but_not_quotes() {
        let mut text = Exposition::new();
        text.family("m", Kind::Counter, "a \\ b\n\"c\"");
        assert_eq!(text.finish(), "# HELP m a \\\\ b\\n\"c\"\n# TYPE m counter\n");
    }

    #[test]
    fn labels_made_once_give_the_same_line() {
        let labels = [("location", "us\"1"), ("ip", "::1")];
        let mut text = Exposition::new();
        let (all, first, second) = (Labels::new(&labels), Labels::new(&labels[..1]), Labels::new(&labels[1..]));
        let none = Labels::default();
        for sets in [&[&all][..], &[&first, &second], &[&none, &first, &none, &second], &[], &[&none]] {
            text.sample_with("m", sets, 2.0);
        }
        let wanted = line(&labels, 2.0);
        assert_eq!(text.finish(), format!("{wanted}{wanted}{wanted}m 2\nm 2\n"));
    }

    #[test]
    fn a_histogram_adds_up_its_buckets() {
        let mut text = Exposition::new();
        text.family("h", Kind::Histogram, "How long.");
        text.histogram("h", &Labels::new(&[("c", "tcp")]), &[0.005, 1.0], &[3, 2, 1], 4.5);
        text.histogram("h", &Labels::default(), &[1.0], &[0, 0], 0.0);
        let wanted = "# HELP h How long.\n# TYPE h histogram\n\
            h_bucket{c=\"tcp\",le=\"0.005\"} 3\nh_bucket{c=\"tcp\",le=\"1\"} 5\nh_bucket{c=\"tcp\",le=\"+Inf\"} 6\n\
            h_sum{c=\"tcp\"} 4.5\nh_count{c=\"tcp\"} 6\n\
            h_bucket{le=\"1\"} 0\nh_bucket{le=\"+Inf\"} 0\nh_sum 0\nh_count 0\n";
        assert_eq!(text.finish(), wanted);
    }

    #[test]
    fn gzip_is_taken_only_where_it_is_wanted() {
        for yes in ["gzip", "deflate, GZIP", "br;q=1.0, gzip;q=0.2", "*", "x-gzip", "gzip ; q=1", "*;q=0, gzip"] {
            assert!(accepts_gzip(yes), "{yes}");
        }
        for no in ["", "identity", "gzip;q=0", "gzip; q=0.000", "*;q=0", "*, gzip;q=0", "gzipped", "gzip;q=high"] {
            assert!(!accepts_gzip(no), "{no}");
        }
    }

    #[tokio::test]
    async fn a_page_is_the_same_text_with_and_without_gzip_and_compressed_once() {
        let text = line(&[("location", "us1")], 1.0).repeat(1000);
        let page = Page::new(text.clone());
        let plain = page.reply(None);
        assert_eq!(plain.headers()[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
        assert!(!plain.headers().contains_key(CONTENT_ENCODING));
        assert_eq!(plain.into_body().collect().await.unwrap().to_bytes(), text);
        assert!(page.gzip.get().is_none(), "nobody has asked for gzip yet");

        let zipped = page.reply(Some("gzip"));
        assert_eq!(
            (&zipped.headers()[CONTENT_ENCODING], &zipped.headers()[VARY]),
            (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
        );
        let bytes = zipped.into_body().collect().await.unwrap().to_bytes();
        let mut unzipped = String::new();
        GzDecoder::new(&bytes[..]).read_to_string(&mut unzipped).unwrap();
        assert!(unzipped == text && bytes.len() < text.len() / 10);
        let made = page.gzip.get().unwrap().as_ptr();
        let _ = page.reply(Some("gzip"));
        assert_eq!(page.gzip.get().unwrap().as_ptr(), made);
    }
}
