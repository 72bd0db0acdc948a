//! The servers that other tests lean on: Redis and Prometheus start, fail and come back as the harness says.

pub mod support;

use support::prometheus::Prometheus;
use support::redis::Redis;
use support::{SOON, eventually, holds, socket};

#[test]
fn a_redis_is_lost_and_found_in_every_way() {
    let Some(mut redis) = Redis::start() else { return };
    redis.command(&["SET", "a", "1"]).unwrap();
    redis.flush();
    assert!(redis.command(&["GET", "a"]).unwrap().contains("nil"));

    redis.command(&["SET", "a", "1"]).unwrap();
    redis.hang();
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| redis.command(&["GET", "a"]));
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(!asked.is_finished(), "a hung Redis does not answer");
        redis.resume();
        asked.join().unwrap()
    });
    assert!(asked.unwrap().contains("bulk-string"));

    redis.kill();
    assert!(redis.command(&["PING"]).is_err());
    redis.start_again();
    assert!(redis.command(&["GET", "a"]).unwrap().contains("nil"), "it comes back empty");
}

#[test]
fn a_prometheus_scrapes_evaluates_and_takes_up_other_jobs() {
    let nobody = socket();
    let job = |target| format!("  - {{job_name: it, static_configs: [{{targets: ['{target}']}}]}}\n");
    let rules = "groups: [{name: g, rules: [{alert: Gone, expr: 'up == 0', for: 1s}]}]";
    let Some(prometheus) = Prometheus::start(&job(nobody), rules) else { return };
    eventually(SOON, "the alert fires", || {
        let firing = prometheus.firing("Gone");
        holds(firing.len() == 1 && firing[0]["instance"] == nobody.to_string(), firing)
    });
    prometheus.reload(&job(prometheus.server));
    eventually(SOON, "the alert clears and the new target is up", || {
        let (firing, up) = (prometheus.firing("Gone"), prometheus.query("up == 1"));
        holds(firing.is_empty() && up.len() == 1, (firing, up))
    });
}
