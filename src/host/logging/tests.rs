//! The format of lines, and where they are written.

use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tracing::{debug, error, info, warn};

use super::*;
use crate::host::vitals::Vitals;

/// The lines that `log` writes in this format at level info.
fn lines(form: Form, log: impl FnOnce()) -> String {
    let written = Arc::new(Mutex::new(String::new()));
    let sink = written.clone();
    let output = Lines::new(form, move |line: &str| sink.lock().unwrap().push_str(line));
    let subscriber =
        tracing_subscriber::registry().with(Targets::new().with_default(tracing::Level::INFO)).with(output);
    tracing::subscriber::with_default(subscriber, log);
    written.lock().unwrap().clone()
}

/// A text line without its time; fails if the time is not one.
fn without_time(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time:?} is not an RFC 3339 time");
    rest
}

const TEXT: Form = Form::Text { colour: false };

#[test]
fn a_text_line_has_level_part_message_and_fields() {
    let line = lines(TEXT, || {
        warn!(target: "netring::member::prober", target_location = "eu1-k8s", target = %"10.1.2.3:8756", check = "tcp",
              attempts = 3_u64, seconds = 1.5, again = true, "peer fails");
    });
    let wanted = " WARN member::prober: peer fails target_location=eu1-k8s target=10.1.2.3:8756 check=tcp attempts=3 \
                  seconds=1.5 again=true\n";
    assert_eq!(without_time(&line), wanted);
}

#[test]
fn a_value_that_is_not_plain_is_quoted() {
    let line =
        lines(TEXT, || info!(target: "netring", a = "two words", b = "", c = "x=y", d = "q\"q", e = "größe", "m"));
    assert_eq!(without_time(&line), " INFO netring: m a=\"two words\" b=\"\" c=\"x=y\" d=\"q\\\"q\" e=größe\n");
}

#[test]
fn nothing_in_a_message_or_a_field_can_forge_a_line_or_reach_the_terminal() {
    let evil = "x\n2026-01-01T00:00:00Z ERROR all is lost\r\u{1b}[2J\u{202e}\u{2028}\u{7f}";
    let text = lines(TEXT, || {
        error!(location = evil, "{evil}");
        error!(location = ?evil, reason = %evil, "debug and display");
    });
    assert_eq!(text.lines().count(), 2, "{text:?}");
    let raw = |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{202e}' | '\u{2028}'));
    assert!(!text.contains(raw), "{text:?}");

    let json = lines(Form::Json, || error!(location = evil, "{evil}"));
    assert_eq!(json.lines().count(), 1, "{json:?}");
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&value["location"], &value["message"]), (&evil.into(), &evil.into()));
}

#[test]
fn a_json_line_keeps_the_types_of_its_fields() {
    let line = lines(Form::Json, || {
        info!(target: "netring::registry", location = "us1", members = 5_u64, delta = -1_i64, age = 0.5, lost = f64::NAN,
              up = false, "joined");
    });
    let value: Value = serde_json::from_str(&line).unwrap();
    assert!(value["time"].as_str().unwrap().ends_with('Z'));
    let head = "\"level\":\"info\",\"part\":\"registry\",\"message\":\"joined\",\"location\":\"us1\",\"members\":5,\
                \"delta\":-1,\"age\":0.5,\"lost\":\"NaN\",\"up\":false}\n";
    assert!(line.ends_with(head), "{line}");
}

#[test]
fn only_the_level_is_coloured() {
    let line = lines(Form::Text { colour: true }, || error!(target: "netring::serve", "m"));
    assert_eq!(without_time(&line), "\u{1b}[31mERROR\u{1b}[0m serve: m\n");
}

#[test]
fn the_journal_is_recognised_by_device_and_inode() {
    assert!(names("12:345", 12, 345));
    for other in ["12:346", "13:345", "12", "", "12:345:6", "x:y"] {
        assert!(!names(other, 12, 345), "{other:?}");
    }
}

/// Runs `logs_for_its_parent` as a separate process, because logging can be started only once per process.
fn child(format: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "host::logging::tests::logs_for_its_parent", "--ignored", "--nocapture"]);
    command.env("LOG_FORM", format).env_remove("JOURNAL_STREAM");
    command
}

fn stderr(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap().lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "run as a child process by another test"]
fn logs_for_its_parent() {
    let format = match std::env::var("LOG_FORM").unwrap().as_str() {
        "json" => LogFormat::Json,
        "text" => LogFormat::Text,
        _ => LogFormat::Auto,
    };
    let settings = LogSettings { level: "WARN".parse().unwrap(), format };
    let (logging, _flush) = start(&settings, "member", Vitals::new().add("log", Duration::from_secs(1))).unwrap();
    info!("not shown");
    warn!("shown");
    logging.set_level(&"debug".parse().unwrap());
    debug!("shown after a reload");
    assert!(matches!(
        start(&settings, "member", Vitals::new().add("log", Duration::from_secs(1))),
        Err(LogError::Started)
    ));
}

#[test]
fn the_level_changes_while_running() {
    for format in ["text", "json", "auto"] {
        let said = stderr(&child(format).output().unwrap());
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0].starts_with('{'), format == "json", "{said:?}");
        assert!(said[0].contains("shown") && said[1].contains("after a reload"), "{said:?}");
        assert!(!said.concat().contains('\u{1b}'), "colour where there is no terminal: {said:?}");
    }
}

#[test]
fn a_journal_stream_that_is_not_stderr_is_not_used() {
    let said = stderr(&child("auto").env("JOURNAL_STREAM", "1:2").output().unwrap());
    assert_eq!(said.len(), 2, "{said:?}");
}
