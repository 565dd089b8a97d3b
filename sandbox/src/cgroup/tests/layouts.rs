//! Detection on trees of plain files: no privilege needed, every layout.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::{Availability, CgroupHost, Controller, Layout, Observer, Room};

struct Fake {
    root: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// A group with these controllers, of which `enabled` go to its children, and these processes.
    fn group(&self, below: &str, controllers: &str, enabled: &str, procs: &str) -> &Self {
        let dir = self.path(below);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
        fs::write(dir.join("cgroup.subtree_control"), enabled).unwrap();
        fs::write(dir.join("cgroup.procs"), procs).unwrap();
        if !below.is_empty() {
            for file in ["cgroup.type", "cgroup.events", "cgroup.kill", "cgroup.freeze"] {
                fs::write(dir.join(file), "").unwrap();
            }
        }
        self
    }

    fn v2_mount(&self) -> String {
        format!("41 31 0:38 / {} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n", self.root.path().display())
    }

    fn probe(&self, own: &str, has_systemd: bool) -> CgroupHost {
        CgroupHost::probe_at(&self.v2_mount(), &format!("0::{own}\n"), &observer(has_systemd))
    }
}

/// Root, whoever runs the tests: who owns the plain files shall not matter.
fn observer(has_systemd: bool) -> Observer {
    Observer { uid: 0, has_systemd }
}

fn place(host: &CgroupHost) -> (&Path, Room, Vec<Controller>) {
    let place = host.v2_place().unwrap();
    (&place.dir, place.room, place.controllers.clone())
}

const ALL: [Controller; 4] = [Controller::Memory, Controller::Cpu, Controller::Pids, Controller::Io];

#[test]
fn root_without_systemd_enables() {
    let fake = Fake::new();
    fake.group("", "cpuset cpu io memory pids", "", "1\n2\n").group("x", "", "", "");
    let host = fake.probe("/", false);
    assert_eq!(place(&host), (fake.root.path(), Room::Enable, ALL.to_vec()));
    assert_eq!(host.layout, Layout::V2);
    assert!([&host.memory, &host.cpu, &host.pids, &host.io, &host.kill].iter().all(|found| found.is_yes()));
    assert_eq!(host.dynmods_hint(), None);
}

#[test]
fn own_delegated_group_is_evacuated() {
    let fake = Fake::new();
    let me = std::process::id();
    fake.group("", "cpu io memory pids", "memory pids cpu", "");
    fake.group("a", "memory pids cpu", "memory pids cpu", "").group(
        "a/own",
        "memory pids cpu",
        "",
        &format!("{me}\n"),
    );
    let host = fake.probe("/a/own", false);
    let controllers = vec![Controller::Memory, Controller::Cpu, Controller::Pids];
    assert_eq!(place(&host), (fake.path("a/own").as_path(), Room::Evacuate, controllers));
    let Availability::No(missing) = &host.io else { panic!("{:?}", host.io) };
    assert!(missing.hint.as_ref().unwrap().contains("echo +io > "), "{missing:?}");
}

#[test]
fn foreign_occupants_send_us_to_the_ancestor_that_is_ready() {
    let fake = Fake::new();
    fake.group("", "cpu memory pids", "cpu memory pids", "");
    fake.group("s", "cpu memory pids", "memory pids", "").group("s/own", "memory pids", "", "1\n");
    let host = fake.probe("/s/own", true);
    let (dir, room, controllers) = place(&host);
    assert_eq!(room, Room::Ready);
    // The root has more controllers ready than the nearer group.
    assert_eq!((dir, controllers.len()), (fake.root.path(), 3));
}

#[test]
fn a_group_that_is_ready_comes_first() {
    let fake = Fake::new();
    fake.group("", "cpu memory pids", "cpu memory pids", "");
    fake.group("own", "memory pids", "memory pids", "");
    assert_eq!(place(&fake.probe("/own", true)).0, fake.path("own"));
}

#[test]
fn no_permission_is_said_with_a_remedy() {
    let fake = Fake::new();
    fake.group("", "memory pids", "memory pids", "").group("own", "memory pids", "", "");
    for dir in ["", "own"] {
        fs::remove_file(fake.path(dir).join("cgroup.procs")).unwrap();
    }
    let host = fake.probe("/own", true);
    let text = host.memory.to_string();
    assert!(text.contains("own/cgroup.procs is not writable by uid"), "{text}");
    assert!(text.contains("-p Delegate=yes"), "{text}");
    assert_eq!(host.memory, host.kill);
    let text = super::super::CgroupTree::create(&host, "x").unwrap_err().to_string();
    assert!(text.contains("no hierarchy has room"), "{text}");
}

#[test]
fn hybrid_finds_each_controller_where_it_is() {
    let fake = Fake::new();
    fake.group("u", "io", "io", "").group("u/any", "io", "", "");
    fs::remove_file(fake.path("u/cgroup.type")).unwrap();
    for dir in ["memory/own", "cpu/own", "pids"] {
        fs::create_dir_all(fake.path(dir)).unwrap();
    }
    let root = fake.root.path().display();
    let mounts = format!(
        "1 0 0:1 / {root}/memory rw - cgroup cgroup rw,memory\n\
         2 0 0:2 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
         3 0 0:3 / {root}/pids rw - cgroup cgroup rw,pids\n\
         4 0 0:4 / {root}/u rw - cgroup2 cgroup2 rw\n"
    );
    let own = "3:memory:/own\n2:cpu,cpuacct:/own\n1:pids:/\n0::/\n";
    let host = CgroupHost::probe_at(&mounts, own, &observer(false));
    assert_eq!(host.layout, Layout::Hybrid);
    assert!([&host.memory, &host.cpu, &host.pids, &host.io].iter().all(|found| found.is_yes()), "{host:?}");
    let dirs: Vec<_> = host.v1_places().iter().map(|place| place.dir.clone()).collect();
    assert_eq!(dirs, [fake.path("memory/own"), fake.path("cpu/own"), fake.path("pids")]);
    assert_eq!(place(&host).2, [Controller::Io]);
    let hint = host.dynmods_hint().unwrap();
    assert!(hint.ends_with(&format!("mount -o remount,favordynmods {root}/u")), "{hint}");
    let favored = mounts.replace("cgroup2 cgroup2 rw", "cgroup2 cgroup2 rw,favordynmods");
    assert_eq!(CgroupHost::probe_at(&favored, own, &observer(false)).dynmods_hint(), None);
}

#[test]
fn v1_alone_uses_cpuacct_and_cannot_kill() {
    let fake = Fake::new();
    fs::create_dir_all(fake.path("cpu")).unwrap();
    let mount =
        |names: &str| format!("2 0 0:2 / {} rw - cgroup cgroup rw,{names}\n", fake.path("cpu").display());
    let host = CgroupHost::probe_at(&mount("cpu,cpuacct"), "2:cpu,cpuacct:/\n", &observer(false));
    assert_eq!(host.layout, Layout::V1);
    assert_eq!(host.v1_places()[0].controllers, [Controller::Cpu, Controller::Cpuacct]);
    assert!(host.cpu.is_yes() && !host.kill.is_yes() && !host.memory.is_yes() && !host.memory_peak.is_yes());
    let host = CgroupHost::probe_at(&mount("cpuset,cpu"), "2:cpuset,cpu:/\n", &observer(false));
    assert!(host.cpu.to_string().contains("cpuset"), "{}", host.cpu);
}

#[test]
fn nothing_mounted() {
    for (mounts, own) in
        [("", ""), ("garbage\n", "0::/\n"), ("41 31 0:38 / /x rw - cgroup2 cgroup2 rw\n", "0::/../y\n")]
    {
        let host = CgroupHost::probe_at(mounts, own, &observer(false));
        assert!(host.v2_place().is_none() && host.v1_places().is_empty());
        assert!(!host.memory.is_yes() && !host.freeze.is_yes(), "{host:?}");
    }
    assert_eq!(CgroupHost::probe_at("", "", &observer(false)).layout, Layout::None);
}
