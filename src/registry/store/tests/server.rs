//! A redis-server of the test's own, on a unix socket in a directory of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::clock;
use crate::config::{RedisSettings, Secret};
use crate::registry::store::Limits;
use crate::registry::store::redis::RedisStore;

pub(in crate::registry) struct Server {
    directory: tempfile::TempDir,
    process: Child,
}

impl Server {
    /// None, and a word on it, where redis-server is not installed.
    pub(in crate::registry) fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("SKIPPED: redis-server is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let process = Self::launch(&directory, &[]);
        let server = Self { directory, process };
        server.await_ready();
        Some(server)
    }

    fn launch(directory: &tempfile::TempDir, more: &[&str]) -> Child {
        Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "socket", "--dir"])
            .arg(directory.path())
            .args(more)
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub(in crate::registry) fn settings(&self) -> RedisSettings {
        RedisSettings {
            host: self.socket().to_str().unwrap().into(),
            port: 6379.try_into().unwrap(),
            db: 0,
            username: None,
            password: None,
            timeout: Duration::from_secs(2),
        }
    }

    pub(in crate::registry) fn settings_with_password(&self, password: &str) -> RedisSettings {
        RedisSettings { password: Some(Secret(password.into())), ..self.settings() }
    }

    pub(in crate::registry) fn store(&self, limits: Limits) -> RedisStore {
        RedisStore::new(&self.settings(), limits).unwrap()
    }

    /// A plain connection, as an older program or an administrator has one.
    pub(in crate::registry) fn plain(&self) -> redis::Connection {
        redis::Client::open(format!("unix://{}", self.socket().display())).unwrap().get_connection().unwrap()
    }

    /// One plain command, such as `HSET key field value`.
    pub(in crate::registry) fn command<T: redis::FromRedisValue>(&self, words: &str) -> T {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        command.query(&mut self.plain()).unwrap()
    }

    pub(in crate::registry) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, with nothing of what it held.
    pub(in crate::registry) fn restart(&mut self) {
        self.process = Self::launch(&self.directory, &[]);
        self.await_ready();
    }

    pub(in crate::registry) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn await_ready(&self) {
        let deadline = clock::monotonic() + Duration::from_secs(10);
        let client = redis::Client::open(format!("unix://{}", self.socket().display())).unwrap();
        while client.get_connection().and_then(|mut c| redis::cmd("PING").query::<String>(&mut c)).is_err() {
            assert!(clock::monotonic() < deadline, "redis-server did not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed by the test already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
