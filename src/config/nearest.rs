//! "Did you mean": the known name that is nearest to an unknown one.

/// The candidate that `name` is most likely a misspelling of: at most a third of its characters, and no more than
/// three, are wrong, missing, extra or swapped with their neighbour. Case does not count, nor `-` against `_`.
pub(super) fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let limit = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(name.len()) <= 4 * limit)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Whether two names differ in nothing that counts.
pub(super) fn alike(a: &str, b: &str) -> bool {
    folded(a).eq(folded(b))
}

/// The characters of a name without what does not count.
fn folded(name: &str) -> impl Iterator<Item = char> {
    name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() })
}

/// How many single-character edits or swaps of neighbours lie between two names (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (folded(a).collect(), folded(b).collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before_last[j - 2] + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] = ["poll_interval", "check_interval", "host", "port"];

    #[test]
    fn a_slip_of_the_finger_finds_the_key() {
        for (typo, meant) in [
            ("chek_interval", "check_interval"),
            ("checkInterval", "check_interval"),
            ("poll-interval", "poll_interval"),
            ("prot", "port"),
            ("Host", "host"),
        ] {
            assert_eq!(nearest(typo, KEYS), Some(meant), "{typo}");
        }
    }

    #[test]
    fn a_name_that_resembles_none_finds_none() {
        for name in ["", "x", "database", "ttl", &"host".repeat(1000)] {
            assert_eq!(nearest(name, KEYS), None, "{name}");
        }
    }
}
