//! Registry and member as services of a real systemd: installed, ready, told of, crashed, stopped.

pub mod support;

use support::booted::Booted;

on_each_systemd!(a_service_that_is_enabled_is_ready_at_once_and_after_a_reboot);

fn a_service_that_is_enabled_is_ready_at_once_and_after_a_reboot(host: &mut Booted) {
    host.write("/etc/netring/registry.yaml", "registry:\n  member_ttl: 60\n");
    host.run(&["systemctl", "enable", "--now", "netring-registry"]);
    for _ in 0..2 {
        assert_eq!(host.property("netring-registry", "SubState"), "running");
        assert_eq!(host.property("netring-registry", "StatusText"), "0 members at 0 locations, store embedded");
        assert_eq!(host.get(8756, "/health").status, 200);
        host.reboot();
    }
}
