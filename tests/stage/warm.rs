//! Roots that are staged already, and what becomes of them.

use crate::Test;
use crate::scene::{ACTION, Scene, file, path_in};
use fulgurite::action::{Digest, Directory};
use fulgurite::stage::root::{StagerOptions, Way, WayChoice};
use fulgurite_sandbox::runtime::Runtime;
use std::sync::Barrier;

pub const TESTS: &[Test] = &[
    ("warm::a_second_time_is_known", a_second_time_is_known),
    ("warm::many_at_once_stage_it_once", many_at_once_stage_it_once),
    ("warm::idle_roots_go_and_used_ones_stay", idle_roots_go_and_used_ones_stay),
    ("warm::trees_of_a_killed_daemon_go", trees_of_a_killed_daemon_go),
    ("warm::nothing_is_left_open", nothing_is_left_open),
];

fn root(scene: &Scene, number: usize) -> Digest {
    let content = scene.put(format!("content {number}").as_bytes());
    scene.put_directory(&Directory { files: vec![file("f", content)], ..Directory::default() })
}

fn a_second_time_is_known(runtime: &Runtime) {
    for way in Way::ALL {
        let scene = Scene::new();
        let root = root(&scene, 1);
        let Some(stager) = scene.stager("a_second_time_is_known", runtime, way) else { continue };
        assert!(!stager.stage("a", &root).unwrap().known);
        assert!(stager.stage("a", &root).unwrap().known);
        assert!(stager.clone().stage("a", &root).unwrap().known);
        assert!(!stager.stage("b", &root).unwrap().known, "another tenant learns nothing");
        assert_eq!(stager.release_idle().unwrap(), 4, "a file and a directory, twice");
        assert_eq!(stager.warm_roots(), 0);
        assert!(!stager.stage("a", &root).unwrap().known);
    }
}

fn many_at_once_stage_it_once(runtime: &Runtime) {
    for way in Way::ALL {
        let scene = Scene::new();
        let root = root(&scene, 1);
        let Some(stager) = scene.stager("many_at_once_stage_it_once", runtime, way) else { continue };
        let barrier = Barrier::new(8);
        let known: Vec<bool> = std::thread::scope(|scope| {
            let ask = || {
                barrier.wait();
                stager.stage("t", &root).unwrap().known
            };
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(known.iter().filter(|known| !**known).count(), 1, "{way}: {known:?}");
    }
}

fn idle_roots_go_and_used_ones_stay(runtime: &Runtime) {
    for way in Way::ALL {
        let scene = Scene::new();
        let options =
            StagerOptions { way: WayChoice::Forced(way), warm_roots_max: 3, ..StagerOptions::default() };
        if scene.stager("idle_roots_go_and_used_ones_stay", runtime, way).is_none() {
            continue;
        }
        let stager = scene.open(runtime, options).unwrap();
        let held = stager.stage("t", &root(&scene, 0)).unwrap();
        for number in 1..10 {
            stager.stage("t", &root(&scene, number)).unwrap();
            assert!(stager.warm_roots() <= 4);
        }
        assert!(stager.stage("t", &root(&scene, 0)).unwrap().known, "{way}: it is in use");
        assert!(stager.stage("t", &root(&scene, 9)).unwrap().known);
        assert!(!stager.stage("t", &root(&scene, 1)).unwrap().known, "the oldest went");
        stager.release_idle().unwrap();
        assert_eq!(stager.warm_roots(), 1);
        let layer = scene.layer(runtime, ACTION);
        let view = held.view(runtime, ACTION, &layer).unwrap();
        assert_eq!(std::fs::read(path_in(&view, "f")).unwrap(), b"content 0");
        // What an action sees is in use, although nobody holds the root itself.
        drop(held);
        stager.release_idle().unwrap();
        assert_eq!(stager.warm_roots(), 1);
        assert_eq!(std::fs::read(path_in(&view, "f")).unwrap(), b"content 0");
        drop(view);
        stager.release_idle().unwrap();
        assert_eq!(stager.warm_roots(), 0);
        layer.destroy().unwrap();
    }
}

fn trees_of_a_killed_daemon_go(runtime: &Runtime) {
    let scene = Scene::new();
    let Some(stager) = scene.stager("trees_of_a_killed_daemon_go", runtime, Way::DirectoryCache) else {
        return;
    };
    let root = root(&scene, 1);
    stager.stage("t", &root).unwrap();
    // As if the process had been killed: nothing is taken apart.
    drop(stager);
    let count = |name: &str| std::fs::read_dir(scene.temp.path().join("stage").join(name)).unwrap().count();
    assert_eq!((count("trees"), count("files")), (1, 1));
    let stager = scene.stager("trees_of_a_killed_daemon_go", runtime, Way::DirectoryCache).unwrap();
    assert_eq!((count("trees"), count("files")), (0, 0));
    stager.stage("t", &root).unwrap();
    stager.release_idle().unwrap();
    assert_eq!(count("trees"), 0);
}

fn nothing_is_left_open(runtime: &Runtime) {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    for way in Way::ALL {
        let scene = Scene::new();
        let Some(stager) = scene.stager("nothing_is_left_open", runtime, way) else { continue };
        let once = |number| {
            let staged = stager.stage("t", &root(&scene, number)).unwrap();
            scene.see(runtime, &staged);
        };
        once(0);
        stager.release_idle().unwrap();
        let before = open();
        (1..20).for_each(once);
        stager.release_idle().unwrap();
        // The store of the way before may have been closing still when the first were counted.
        assert!(open() <= before, "{way}: {} are open, {before} were", open());
    }
}
