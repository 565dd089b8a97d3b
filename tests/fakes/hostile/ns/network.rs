//! N04, N05 and N11: sockets and the network.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys;
use crate::walk;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

const WELL_KNOWN: &[&str] = &[
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/buildkit/buildkitd.sock",
    "/run/dbus/system_bus_socket",
    "/var/run/dbus/system_bus_socket",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/systemd/private",
    "/run/systemd/notify",
    "/run/systemd/journal/socket",
    "/run/systemd/journal/stdout",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/udev/control",
    "/run/snapd.socket",
    "/run/avahi-daemon/socket",
    "/run/cups/cups.sock",
    "/run/postgresql/.s.PGSQL.5432",
    "/var/run/mysqld/mysqld.sock",
    "/nix/var/nix/daemon-socket/socket",
    "/dev/log",
    "/tmp/.X11-unix/X0",
    "@/tmp/.X11-unix/X0",
    "@/tmp/dbus-session",
    "@/org/kernel/linux/storage/multipathd",
    "@/containerd-shim",
    "@ISCSIADM_ABSTRACT_NAMESPACE",
];

/// N04.
pub fn unix_sockets(facts: &Facts, report: &mut Report) {
    let mut names: BTreeSet<String> = WELL_KNOWN.iter().map(|s| (*s).to_string()).collect();
    match facts.get("abstract_socket") {
        Some(name) => drop(names.insert(format!("@{}", name.trim_start_matches('@')))),
        None => report.note("no fact abstract_socket"),
    }
    match facts.get("path_socket") {
        Some(path) => {
            for prefix in ["", "/proc/self/root", "/proc/1/root", "/proc/1/cwd/../../../../.."] {
                names.insert(format!("{prefix}{path}"));
            }
        }
        None => report.note("no fact path_socket"),
    }
    for variable in
        ["DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "WAYLAND_DISPLAY", "NOTIFY_SOCKET", "DOCKER_HOST"]
    {
        if let Ok(value) = std::env::var(variable) {
            report.note(format!("{variable} is set"));
            names.insert(value.trim_start_matches("unix:path=").trim_start_matches("unix://").to_string());
        }
    }
    names.extend(bound_names());
    walk::everything(&mut |_| true, &mut |path, kind| {
        if kind.is_socket() {
            names.insert(path.display().to_string());
        }
    });
    for name in &names {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
            let result = connect_unix(name, kind);
            report.check(result.is_ok(), format!("connected to {name}"));
            match result {
                Err(libc::EACCES | libc::EPERM) => report.note(format!("{name} is there, rights refuse it")),
                Err(libc::ECONNREFUSED) if name.starts_with('/') => {
                    report.note(format!("{name} is there, nobody listens"))
                }
                _ => {}
            }
        }
    }
}

/// Names in the socket table of the own network namespace.
fn bound_names() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    table.lines().skip(1).filter_map(|l| l.split_whitespace().nth(7)).map(str::to_string).collect()
}

/// Connects to a path, or to an abstract name after `@`.
pub fn connect_unix(name: &str, kind: i32) -> Result<(), i32> {
    let fd = sys::own(sys::call(libc::SYS_socket, &[1, (kind | libc::SOCK_NONBLOCK) as u64, 0])?)?;
    let (address, length) = unix_address(name);
    sys::call(libc::SYS_connect, &[fd.as_raw_fd() as u64, address.as_ptr() as u64, length]).map(drop)
}

/// A `sockaddr_un` and its length.
pub fn unix_address(name: &str) -> ([u8; 110], u64) {
    let mut address = [0u8; 110];
    address[0] = 1;
    let (start, bytes) = match name.strip_prefix('@') {
        Some(rest) => (3, rest.as_bytes()),
        None => (2, name.as_bytes()),
    };
    let n = bytes.len().min(107);
    address[start..start + n].copy_from_slice(&bytes[..n]);
    // A path needs its NUL; an abstract name is as long as it is.
    (address, (start + n + usize::from(start == 2)) as u64)
}

/// N05.
pub fn addresses(facts: &Facts, report: &mut Report) {
    for name in interfaces() {
        report.check(name != "lo", format!("interface {name}"));
    }
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    for line in routes.lines().skip(1).filter(|l| !l.starts_with("lo")) {
        report.broke(format!("route {}", line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")));
    }
    let routes = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    for line in routes.lines().filter(|l| !l.ends_with(" lo")) {
        report.broke(format!("IPv6 route by {}", line.split_whitespace().last().unwrap_or_default()));
    }
    // Connecting a datagram socket sends nothing; it only asks for a route.
    let remote = [
        "192.0.2.1:9",
        "8.8.8.8:53",
        "169.254.169.254:80",
        "10.0.0.1:53",
        "[2001:db8::1]:9",
        "[fe80::1%2]:9",
    ];
    for text in remote {
        let Ok(address) = text.replace("%2", "").parse::<SocketAddr>() else { continue };
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let routed = UdpSocket::bind(any).and_then(|s| s.connect(address));
        report.check(routed.is_ok(), format!("there is a route to {text}"));
    }
    let mut ports: Vec<(String, &str)> = Vec::new();
    for (key, hosts) in [
        ("tcp4_port", &["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::ffff:127.0.0.1]"][..]),
        ("tcp6_port", &["[::1]", "[::]"][..]),
    ] {
        match facts.get(key) {
            Some(port) => ports.extend(hosts.iter().map(|h| (format!("{h}:{}", port.trim()), key))),
            None => report.note(format!("no fact {key}")),
        }
    }
    for port in [22, 53, 80, 111, 443, 631, 2375, 5432, 8080, 8980, 50051] {
        ports.push((format!("127.0.0.1:{port}"), "well-known"));
        ports.push((format!("[::1]:{port}"), "well-known"));
    }
    for (address, why) in ports {
        report.check(talk(&address), format!("connected to {address} ({why})"));
    }
}

/// Every interface that some way of asking shows.
fn interfaces() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let table = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    names.extend(table.lines().skip(2).filter_map(|l| l.split(':').next()).map(|n| n.trim().to_string()));
    for directory in ["/sys/class/net", "/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"] {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        names.extend(entries.map(|e| e.file_name().to_string_lossy().into_owned()));
    }
    for index in 1..64u32 {
        let mut name = [0u8; libc::IF_NAMESIZE];
        // SAFETY: the buffer has the size that the call demands.
        let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
        if !found.is_null() {
            names.insert(String::from_utf8_lossy(&name).trim_end_matches('\0').to_string());
        }
    }
    for pseudo in ["all", "default", "bonding_masters", ""] {
        names.remove(pseudo);
    }
    names
}

fn talk(address: &str) -> bool {
    let Ok(address) = address.parse::<SocketAddr>() else { return false };
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
    let _ = stream.write(b"hostile\n");
    let _ = stream.read(&mut [0u8; 16]);
    true
}

/// N11.
pub fn tables(facts: &Facts, report: &mut Report) {
    let names = bound_names();
    let abstract_name = facts.get("abstract_socket").map(|n| n.trim_start_matches('@').to_string());
    let named = |n: &String| abstract_name.as_ref().is_some_and(|a| n.trim_start_matches('@') == a);
    report.check(names.iter().any(named), "the harness's abstract socket is listed");
    report.check(
        !names.is_empty(),
        format!("{} bound Unix sockets, such as {}", names.len(), names.first().map_or("", String::as_str)),
    );
    for table in ["tcp", "tcp6", "udp", "udp6", "udplite", "raw", "raw6", "icmp", "packet", "netlink"] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        let lines = text.lines().skip(1).count();
        // The kernel's own netlink sockets are in every namespace.
        let foreign = if table == "netlink" {
            text.lines().skip(1).filter(|l| l.split_whitespace().nth(2).is_some_and(|p| p != "0")).count()
        } else {
            lines
        };
        report.check(foreign > 0, format!("/proc/net/{table} has {foreign} entries"));
    }
    for (key, table) in [("tcp4_port", "tcp"), ("tcp6_port", "tcp6")] {
        let Some(port) = facts.number(key) else { continue };
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        report
            .check(text.contains(&format!(":{port:04X} ")), format!("port {port} of the harness is listed"));
    }
    let own = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    for path in ["/proc/net", "/proc/thread-self/net"] {
        report.check(!Path::new(path).exists(), format!("{path} is missing, nothing was compared"));
    }
    let arp = std::fs::read_to_string("/proc/net/arp").unwrap_or_default();
    report.check(arp.lines().count() > 1, "the neighbor table has entries");
    report.note(format!("{}", own.display()));
}
