//! The environment as a source of settings: which variables belong to a key, which are not of netring, and which are
//! misspelt names of netring's variables.
//!
//! An empty variable counts as unset. Kubernetes sets variables with the same prefixes: for a Service named
//! `netring-registry` every pod of the namespace gets `NETRING_REGISTRY_PORT=tcp://10.0.0.1:8756` and six more. They are
//! recognized by their form and ignored, even where the name is that of a key: a Service named `netring-registry-redis`
//! makes `NETRING_REGISTRY_REDIS_PORT`.

use std::collections::BTreeMap;

use super::fault::Fault;
use super::keys::Key;
use super::nearest::nearest;

/// The environment of a process: name to value.
pub type Environment = BTreeMap<String, String>;

/// The environment of this process. Bytes that are not UTF-8 become U+FFFD, which no setting accepts.
#[must_use]
pub fn environment() -> Environment {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// Prefixes of names that only netring uses, so that an unknown one is a mistake.
const OURS: [&str; 3] = ["NETRING_REGISTRY_", "NETRING_MEMBER_", "NETRING_LOG_"];

/// The value of a variable of a key, unless it is unset, empty or made by Kubernetes.
pub(super) fn value<'e>(environment: &'e Environment, name: &str) -> Option<&'e str> {
    environment.get(name).map(String::as_str).filter(|value| !value.is_empty() && !is_service_link(name, value))
}

/// The value of a variable that the configuration refers to by its name, unless it is unset or empty. Such a name may be
/// one of Kubernetes's, as in `env:NETRING_SERVICE_HOST`.
pub(super) fn named<'e>(environment: &'e Environment, name: &str) -> Option<&'e str> {
    environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// Whether Kubernetes (or Docker's links) made this variable: `..._SERVICE_HOST`, `..._SERVICE_PORT[_NAME]`,
/// `..._PORT=tcp://...`, `..._PORT_<number>_<protocol>[_PROTO|_PORT|_ADDR]`.
fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let url = || PROTOCOLS.iter().any(|p| value.starts_with(&format!("{}://", p.to_ascii_lowercase())));
    let numbered = |after: &str| {
        let mut words = after.split('_');
        words.next().is_some_and(|word| word.parse::<u16>().is_ok())
            && words.next().is_some_and(|word| PROTOCOLS.contains(&word))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && url())
        || name.match_indices("_PORT_").any(|(at, port)| numbered(&name[at + port.len()..]))
}

/// A fault for each variable that has a prefix of netring's and belongs to none of `keys`, now or formerly.
pub(super) fn unknown(environment: &Environment, keys: &[Key]) -> Vec<Fault> {
    let ours = |name: &String, key: &Key| key.environment == *name || key.former_environment.contains(name);
    environment
        .iter()
        .filter(|(name, value)| {
            OURS.iter().any(|ours| name.starts_with(ours))
                && !value.is_empty()
                && !is_service_link(name, value)
                && !keys.iter().any(|key| ours(name, key))
        })
        .map(|(name, _)| {
            let advice = match meant(name, keys) {
                meant if meant.is_empty() => String::new(),
                meant => format!("; did you mean {meant}?"),
            };
            Fault::variable(name, format!("expected the variable of a key, got an unknown name{advice}"))
        })
        .collect()
}

/// The variables that an unknown name may have been meant to be: the one it misspells, or else those of the keys it
/// ends in, of the same role where there are any.
fn meant(name: &str, keys: &[Key]) -> String {
    if let Some(variable) = nearest(name, keys.iter().map(|key| key.environment.as_str())) {
        return variable.into();
    }
    let leaf = |key: &Key| key.path.rsplit('.').next().unwrap_or(key.path).len();
    let ends_alike = |key: &&Key| {
        let end = key.path.len() - leaf(key);
        name.strip_suffix(&key.path[end..].to_ascii_uppercase()).is_some_and(|rest| rest.ends_with('_'))
    };
    let longest = keys.iter().filter(ends_alike).map(leaf).max();
    let found: Vec<_> = keys.iter().filter(ends_alike).filter(|key| Some(leaf(key)) == longest).collect();
    let role = OURS.into_iter().find(|ours| name.starts_with(ours)).unwrap_or_default();
    let of_role: Vec<_> = found.iter().copied().filter(|key| key.environment.starts_with(role)).collect();
    let variables = if of_role.is_empty() { found } else { of_role };
    variables.iter().map(|key| key.environment.as_str()).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::super::keys::keys;
    use super::*;

    fn unknown_in(pairs: &[(&str, &str)]) -> Vec<String> {
        let environment = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        unknown(&environment, &keys()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_kubernetes_injects_for_our_services_is_left_alone() {
        for service in ["NETRING_REGISTRY", "NETRING_MEMBER", "NETRING_REGISTRY_REDIS", "NETRING_MEMBER_SERVER"] {
            let made = [
                ("SERVICE_HOST", "10.0.0.1"),
                ("SERVICE_PORT", "8756"),
                ("SERVICE_PORT_HTTP", "8756"),
                ("PORT", "tcp://10.0.0.1:8756"),
                ("PORT_8756_TCP", "tcp://10.0.0.1:8756"),
                ("PORT_8756_TCP_PROTO", "tcp"),
                ("PORT_8756_TCP_PORT", "8756"),
                ("PORT_8756_TCP_ADDR", "10.0.0.1"),
                ("PORT_53_UDP", "udp://10.0.0.1:53"),
            ];
            for (suffix, content) in made {
                let name = format!("{service}_{suffix}");
                assert_eq!(unknown_in(&[(&name, content)]), [""; 0], "{name}");
                assert_eq!(value(&Environment::from([(name.clone(), content.into())]), &name), None, "{name}");
            }
        }
    }

    #[test]
    fn a_variable_of_ours_that_only_looks_like_a_link_counts() {
        let environment = Environment::from([
            ("NETRING_REGISTRY_REDIS_PORT".into(), "6380".into()),
            ("NETRING_REGISTRY_REDIS_PASSWORD".into(), "tcp://x".into()),
            ("MEMBER_LOCATION".into(), String::new()),
        ]);
        assert_eq!(value(&environment, "NETRING_REGISTRY_REDIS_PORT"), Some("6380"));
        assert_eq!(value(&environment, "NETRING_REGISTRY_REDIS_PASSWORD"), Some("tcp://x"));
        assert_eq!(value(&environment, "MEMBER_LOCATION"), None);
    }

    #[test]
    fn an_unknown_name_is_told_the_one_it_was_meant_to_be() {
        for (name, meant) in [
            ("NETRING_MEMBER_CHECKS_TCP_TIMOUT", "NETRING_MEMBER_CHECKS_TCP_TIMEOUT"),
            ("NETRING_MEMBER_TCP_TIMEOUT", "NETRING_MEMBER_CHECKS_TCP_TIMEOUT"),
            ("NETRING_REGISTRY_URL", "REGISTRY_URL"),
            ("NETRING_MEMBER_REGISTRY_URL", "REGISTRY_URL"),
            ("NETRING_MEMBER_LOCATION", "MEMBER_LOCATION"),
            ("NETRING_LOG_LEVEL", "LOG_LEVEL"),
            ("NETRING_REGISTRY_PORT", "NETRING_REGISTRY_REDIS_PORT or NETRING_REGISTRY_SERVER_PORT"),
            ("NETRING_MEMBER_TIMEOUT", "NETRING_MEMBER_REGISTRY_TIMEOUT"),
        ] {
            let expected = format!(
                "environment: {name}: expected the variable of a key, got an unknown name; did you mean {meant}?"
            );
            assert_eq!(unknown_in(&[(name, "1")]), [expected]);
        }
        assert!(unknown_in(&[("NETRING_REGISTRY_XYZZY", "1")])[0].ends_with("unknown name"));
        assert_eq!(unknown_in(&[("NETRING_REGISTRY_XYZZY", ""), ("NETRING_HOME", "x"), ("PATH", "y")]), [""; 0]);
    }
}
