//! `netring check`: loads a configuration as the daemons do, prints the values in force and where they came from, and
//! changes nothing.
//!
//! The text has a line `key = value   # source` for each key, with the value as it could stand in the file, below the
//! warnings. Where there are faults it is only those. The JSON form has the same content. Secrets are masked in both.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::config::{
    ConfigFaults, ConfigFile, Effective, Environment, Fault, Loaded, Place, Role, member_from, registry_from,
};

use super::Exit;

/// The result for one role.
struct Report {
    role: Role,
    effective: Vec<Effective>,
    warnings: Vec<String>,
}

/// Checks the file at `path` for `role`, or for each role it has a section for, and writes the result to `out`. Returns
/// the exit code.
///
/// # Errors
///
/// `out` cannot be written to.
pub(super) fn run(
    role: Option<Role>,
    path: &Path,
    json: bool,
    environment: &Environment,
    out: &mut dyn Write,
) -> io::Result<Exit> {
    let result = reports(role, path, environment);
    if json {
        writeln!(out, "{:#}", as_json(path, &result))?;
    } else {
        write_text(&result, out)?;
    }
    Ok(if result.is_ok() { Exit::Ok } else { Exit::Config })
}

fn reports(role: Option<Role>, path: &Path, environment: &Environment) -> Result<Vec<Report>, ConfigFaults> {
    let file = ConfigFile::read(path)?;
    let roles = match (role, file.roles()) {
        (Some(role), _) => vec![role],
        // It has neither section, which is a fault of either role.
        (None, roles) if roles.is_empty() => vec![Role::Registry],
        (None, roles) => roles,
    };
    let mut reports = Ok(Vec::new());
    for role in roles {
        let report = match role {
            Role::Registry => registry_from(&file, environment).map(|loaded| Report::new(role, loaded)),
            Role::Member => member_from(&file, environment).map(|loaded| Report::new(role, loaded)),
        };
        reports = match (reports, report) {
            (Ok(mut reports), Ok(report)) => {
                reports.push(report);
                Ok(reports)
            }
            (Err(faults), Err(more)) => Err(faults.and(more)),
            (Err(faults), Ok(_)) | (Ok(_), Err(faults)) => Err(faults),
        };
    }
    reports
}

impl Report {
    fn new<T>(role: Role, loaded: Loaded<T>) -> Self {
        Self { role, effective: loaded.effective, warnings: loaded.warnings }
    }
}

fn write_text(result: &Result<Vec<Report>, ConfigFaults>, out: &mut dyn Write) -> io::Result<()> {
    let reports = match result {
        Ok(reports) => reports,
        Err(faults) => return writeln!(out, "{faults}"),
    };
    let settings = || reports.iter().flat_map(|report| &report.effective);
    let widest = |width: fn(&Effective) -> usize| settings().map(width).max().unwrap_or(0);
    let (keys, values) = (widest(|e| e.key.len()), widest(|e| e.value.chars().count()).min(40));
    for (n, Report { role, effective, warnings }) in reports.iter().enumerate() {
        if n > 0 {
            writeln!(out)?;
        }
        writeln!(out, "# {}: valid", role.section())?;
        for warning in warnings {
            writeln!(out, "# warning: {warning}")?;
        }
        for Effective { key, value, source } in effective {
            writeln!(out, "{key:keys$} = {value:values$}   # {source}")?;
        }
    }
    Ok(())
}

fn as_json(path: &Path, result: &Result<Vec<Report>, ConfigFaults>) -> Value {
    let reports = result.as_deref().unwrap_or_default().iter().map(|report| {
        let settings = report.effective.iter().map(
            |Effective { key, value, source }| json!({ "key": key, "value": value, "source": source.to_string() }),
        );
        json!({
            "role": report.role.section(),
            "settings": settings.collect::<Vec<_>>(),
            "warnings": report.warnings,
        })
    });
    let faults = result.as_ref().err().into_iter().flat_map(ConfigFaults::iter).map(fault_as_json);
    json!({
        "file": path.display().to_string(),
        "valid": result.is_ok(),
        "roles": reports.collect::<Vec<_>>(),
        "faults": faults.collect::<Vec<_>>(),
    })
}

/// The parts of a fault, and `text`, the line of the text form.
fn fault_as_json(fault: &Fault) -> Value {
    let (file, position) = match &fault.place {
        Place::File(path, position) => (Some(path.display().to_string()), *position),
        Place::Environment => (None, None),
    };
    json!({
        "file": file,
        "line": position.map(|position| position.line),
        "column": position.map(|position| position.column),
        "subject": fault.subject,
        "problem": fault.problem,
        "text": fault.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(role: Option<Role>, yaml: &str, json: bool) -> (Exit, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netring.yaml");
        std::fs::write(&path, yaml).unwrap();
        let mut out = Vec::new();
        let code = run(role, &path, json, &Environment::new(), &mut out).unwrap();
        (code, String::from_utf8(out).unwrap().replace(&format!("{}/", directory.path().display()), ""))
    }

    const BOTH: &str =
        "registry:\n  redis: {password: hunter2}\nmember:\n  location: a\n  registry: {url: \"http://r\"}\n";

    #[test]
    fn a_file_of_both_roles_is_checked_for_both_unless_one_is_named() {
        let (code, text) = checked(None, BOTH, false);
        assert_eq!(code, Exit::Ok, "{text}");
        assert!(text.contains("# registry: valid\n") && text.contains("\n\n# member: valid\n"), "{text}");
        let (_, text) = checked(Some(Role::Member), BOTH, false);
        assert!(text.starts_with("# member: valid\n") && !text.contains("# registry: valid"), "{text}");
    }

    #[test]
    fn values_and_origins_stand_in_columns_and_secrets_stay_masked() {
        let (_, text) = checked(None, BOTH, false);
        let columns: Vec<_> = text.lines().filter_map(|line| line.find(" = ")).collect();
        assert!(columns.iter().all(|column| *column == columns[0]), "{text}");
        let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().split_whitespace();
        assert!(line("registry.redis.password ").eq([
            "registry.redis.password",
            "=",
            "********",
            "#",
            "netring.yaml:2"
        ]));
        assert!(line("member.server.port ").eq(["member.server.port", "=", "8756", "#", "default"]));
        assert!(!text.contains("hunter2") && !checked(None, BOTH, true).1.contains("hunter2"));
    }

    #[test]
    fn faults_are_all_there_is_and_end_with_the_code_for_configuration() {
        let (code, text) = checked(None, "registry:\n  prot: 1\nmember:\n  location: ~\n  registry: {url: x}\n", false);
        assert_eq!(code, Exit::Config);
        let places: Vec<_> = text.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(places, ["netring.yaml:2:3", "netring.yaml:4:13", "netring.yaml:5:19"], "{text}");
    }

    #[test]
    fn a_fault_that_both_roles_find_is_told_once() {
        let (_, text) = checked(None, &format!("{BOTH}log: {{level: loud}}\nextra: 1\n"), false);
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn json_holds_settings_or_faults() {
        let (code, text) = checked(None, BOTH, true);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &json["valid"]), (Exit::Ok, &json!(true)));
        assert_eq!(
            json["roles"][1]["settings"][0],
            json!({"key": "member.location", "value": "a", "source": "netring.yaml:4"})
        );
        assert_eq!(json["faults"], json!([]));

        let (code, text) = checked(Some(Role::Registry), "registry:\n  member_ttl: 0\n", true);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &json["valid"], &json["roles"]), (Exit::Config, &json!(false), &json!([])));
        let fault = &json["faults"][0];
        assert_eq!((&fault["line"], &fault["column"]), (&json!(2), &json!(15)));
        assert_eq!(fault["subject"], json!("registry.member_ttl"));
    }

    /// The whole output of `netring check` for the samples. The files are written where `UPDATE_GOLDEN` is set.
    #[test]
    fn the_samples_are_valid_and_their_report_is_the_golden_one() {
        for (sample, golden) in [
            ("config/registry.yaml", "tests/golden/config/check-registry.txt"),
            ("config/member.yaml", "tests/golden/config/check-member.txt"),
        ] {
            let mut out = Vec::new();
            assert_eq!(run(None, Path::new(sample), false, &Environment::new(), &mut out).unwrap(), Exit::Ok);
            let found = String::from_utf8(out).unwrap();
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(golden, &found).unwrap();
            }
            assert_eq!(std::fs::read_to_string(golden).unwrap(), found, "{golden}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let mut out = Vec::new();
        let code = run(None, Path::new("/nowhere/netring.yaml"), false, &Environment::new(), &mut out).unwrap();
        assert_eq!(code, Exit::Config);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "/nowhere/netring.yaml: cannot be read: No such file or directory\n"
        );
    }
}
