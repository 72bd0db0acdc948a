//! A share of the processor for one process, by a control group of its own (cgroups(7)), of either version.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{eventually, skip};

/// Over which time the kernel adds up what a group has used.
const PERIOD: Duration = Duration::from_millis(100);

/// A control group with a limit. Dropping it lets its processes go back to where the limit is not.
#[derive(Debug)]
pub struct Quota {
    root: &'static Path,
    group: PathBuf,
}

impl Quota {
    /// Limits a process and what it starts to this share of one processor; `None`, with the skip said, where the machine
    /// lets nobody make control groups.
    #[must_use]
    pub fn limit(process: u32, share: f64) -> Option<Self> {
        let quota = (PERIOD.as_micros() as f64 * share) as u64;
        let name = format!("netring-{}-{process}", std::process::id());
        // Version 2 alone, version 1 alone or beside the other.
        for (root, file, text) in [
            ("/sys/fs/cgroup", "cpu.max", format!("{quota} {}", PERIOD.as_micros())),
            ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", quota.to_string()),
        ] {
            let root = Path::new(root);
            let group = root.join(&name);
            if !root.join("cgroup.procs").exists() || fs::create_dir(&group).is_err() {
                continue;
            }
            let this = Self { root, group };
            let limited = fs::write(this.group.join(file), text);
            if limited.and_then(|()| fs::write(this.group.join("cgroup.procs"), process.to_string())).is_ok() {
                return Some(this);
            }
        }
        skip("no control group with a limit on processor time can be made here");
        None
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        for process in fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(self.root.join("cgroup.procs"), process);
        }
        if !std::thread::panicking() {
            eventually(Duration::from_secs(5), "the control group goes", || fs::remove_dir(&self.group));
        }
    }
}
