use super::*;
use crate::config::{ConfigFile, Environment, member_from};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The settings of a member that finds no registry, with these times in seconds.
fn settings(check_interval: u64, tcp_timeout: u64, http_timeout: u64) -> MemberSettings {
    let text = format!(
        "member: {{location: x, registry: {{url: 'http://127.0.0.1:1'}}, intervals: {{check_interval: {check_interval}}}, \
         checks: {{tcp_timeout: {tcp_timeout}, http_timeout: {http_timeout}}}}}"
    );
    let file = ConfigFile::parse(std::path::Path::new("member.yaml"), &text).unwrap();
    member_from(&file, &Environment::default()).unwrap().settings
}

#[test]
fn an_outcome_is_fresh_by_the_longer_of_the_two_time_limits() {
    let of = |tcp, http| freshness(&settings(60, tcp, http));
    assert_eq!(of(3, 8), Freshness { interval: secs(60), time_limit: secs(8) });
    assert_eq!(of(9, 2), Freshness { interval: secs(60), time_limit: secs(9) });
}

#[test]
fn a_reload_changes_what_counts_as_fresh() {
    let options = Options {
        instance_id: "me".parse().unwrap(),
        listener: Some(TcpListener::bind("127.0.0.1:0").unwrap()),
        state: None,
        vitals: Vitals::new(),
        reloads: Reloads::default(),
    };
    let mut member = Member::start(settings(60, 3, 8), options).unwrap();
    assert_eq!(member.board().freshness, Freshness { interval: secs(60), time_limit: secs(8) });
    member.reload(settings(30, 5, 4));
    assert_eq!(member.board().freshness, Freshness { interval: secs(30), time_limit: secs(5) });
    member.stop(Farewell::Vanish);
}

#[test]
fn a_reload_changes_how_often_peers_are_probed() {
    let options = Options {
        instance_id: "me".parse().unwrap(),
        listener: Some(TcpListener::bind("127.0.0.1:0").unwrap()),
        state: None,
        vitals: Vitals::new(),
        reloads: Reloads::default(),
    };
    let mut member = Member::start(settings(3_600, 3, 8), options).unwrap();
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = probe::Target { address: peer.local_addr().unwrap(), check: probe::Check::Tcp };
    let id = probe::schedule::TargetId(0);
    member.prober.set_targets(vec![plan::Probing { id, peer: "peer".parse().unwrap(), target }]);
    member.reload(settings(1, 1, 1));
    let (probed, three_times) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..3 {
            peer.accept().unwrap();
        }
        let _ = probed.send(());
    });
    three_times.recv_timeout(secs(20)).expect("a probe each second");
    member.stop(Farewell::Vanish);
}
