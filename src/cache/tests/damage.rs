//! Files that are not as they were left, and disks that are full.

use super::*;
use std::path::PathBuf;

fn file(scene: &Scene) -> PathBuf {
    scene.dir.path().join(FILE_NAME)
}

fn aside(scene: &Scene) -> PathBuf {
    scene.dir.path().join(format!("{FILE_NAME}.corrupt"))
}

/// A scene with a closed file of 200 entries.
fn filled() -> Scene {
    let scene = Scene::new();
    let cache = scene.cache();
    for index in 0..200 {
        put(&cache, &index.to_string(), &"x".repeat(500), &[]);
    }
    cache.close().unwrap();
    scene
}

/// The file is put aside, and a new cache works.
fn check_new(scene: &Scene, what: &str) {
    let cache = scene.cache_with(&COLD);
    assert_eq!(got(&cache, "0"), None, "{what}");
    put(&cache, "0", "new", &[]);
    cache.close().unwrap();
    assert!(aside(scene).exists(), "{what}");
    let again = scene.cache();
    assert_eq!(got(&again, "0").as_deref(), Some("new"), "{what}");
    again.close().unwrap();
    std::fs::remove_file(aside(scene)).unwrap();
}

#[test]
fn a_file_that_is_none_is_moved_aside() {
    let scene = Scene::new();
    for (what, bytes) in [
        ("text", b"not a database".repeat(1000)),
        ("zeros, as a kill while it is made leaves", vec![0; 1 << 20]),
        ("one byte", vec![b'r']),
        ("its first bytes alone", b"redb\x1a\x0a\xa9\x0d\x0a".to_vec()),
    ] {
        std::fs::write(file(&scene), bytes).unwrap();
        check_new(&scene, what);
    }
    std::fs::write(file(&scene), b"").unwrap();
    scene.cache().close().unwrap();
    assert!(!aside(&scene).exists());
}

#[test]
fn a_file_that_was_cut_is_moved_aside() {
    let scene = filled();
    let whole = std::fs::read(file(&scene)).unwrap();
    for bytes in [100, 320, 4096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(file(&scene), &whole[..bytes]).unwrap();
        check_new(&scene, &format!("{bytes} of {}", whole.len()));
    }
}

#[test]
fn damage_of_the_header_is_healed() {
    let scene = filled();
    let whole = std::fs::read(file(&scene)).unwrap();
    // Magic, page size, region sizes, both commit slots.
    for range in [0..9, 12..16, 16..32, 64..320] {
        let mut damaged = whole.clone();
        damaged[range.clone()].fill(0xa5);
        std::fs::write(file(&scene), damaged).unwrap();
        check_new(&scene, &format!("{range:?}"));
    }
}

/// Changes a byte in the result of every value, and nothing else.
fn damage_values(file: &mut [u8]) {
    for at in 0..file.len() - 400 {
        if file[at..at + 400] == [b'x'; 400] {
            file[at + 200] = b'y';
        }
    }
}

/// Of a file that was not closed every page is checked.
#[test]
fn damage_of_pages_is_found_after_a_crash() {
    let scene = filled();
    let cache = scene.cache();
    put(&cache, "last", "last", &[]);
    cache.flush().unwrap();
    // As a kill at this moment leaves it.
    let left = std::fs::read(file(&scene)).unwrap();
    cache.close().unwrap();
    std::fs::write(file(&scene), &left).unwrap();
    let cache = scene.cache_with(&COLD);
    assert_eq!(got(&cache, "last").as_deref(), Some("last"), "undamaged it is repaired");
    cache.close().unwrap();
    let mut damaged = left;
    damage_values(&mut damaged);
    std::fs::write(file(&scene), damaged).unwrap();
    check_new(&scene, "a page");
}

#[test]
fn a_damaged_value_is_a_miss() {
    let scene = filled();
    let mut damaged = std::fs::read(file(&scene)).unwrap();
    damage_values(&mut damaged);
    std::fs::write(file(&scene), damaged).unwrap();
    let cache = scene.cache_with(&COLD);
    for index in 0..200 {
        assert_eq!(got(&cache, &index.to_string()), None, "{index}");
    }
    put(&cache, "0", "repaired", &[]);
    cache.flush().unwrap();
    assert_eq!(got(&cache, "0").as_deref(), Some("repaired"));
}

/// Where redb panics at a file, the process ends; the next one finds the marker.
#[test]
fn an_opening_that_did_not_come_back_is_not_repeated() {
    let scene = filled();
    let marker = scene.dir.path().join(format!("{FILE_NAME}.opening"));
    std::fs::write(&marker, b"").unwrap();
    check_new(&scene, "marker");
    assert!(!marker.exists());
}

#[test]
fn another_format_is_moved_aside() {
    let scene = filled();
    let database = redb::Database::create(file(&scene)).unwrap();
    let transaction = database.begin_write().unwrap();
    let totals: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("totals");
    transaction.open_table(totals).unwrap().insert("format", 1_000_000).unwrap();
    transaction.commit().unwrap();
    drop(database);
    check_new(&scene, "format");
}

/// A small filesystem of its own, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("fulgurite-test", &at, "tmpfs", flags, c"size=4m") {
            Ok(()) => Some(SmallDisk(at)),
            Err(errno) => {
                println!("SKIP a_full_disk_costs_entries_and_nothing_else: cannot mount a tmpfs: {errno}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_costs_entries_and_nothing_else() {
    let scene = Scene::new();
    let Some(disk) = SmallDisk::new(scene.dir.path().join("small")) else { return };
    let cache = open(&disk.0, &scene.cas, &ActionCacheOptions::default());
    put(&cache, "early", "early", &[]);
    cache.flush().unwrap();
    let ballast = disk.0.join("ballast");
    let mut bytes = 8 << 20;
    while bytes >= 4096 {
        // Until not a page is left.
        let chunk = vec![0; bytes];
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&ballast).unwrap();
        if std::io::Write::write_all(&mut file, &chunk).is_err() {
            bytes /= 2;
        }
    }
    let mut failed = false;
    for index in 0..200 {
        put(&cache, &format!("late-{index}"), &"x".repeat(100_000), &[]);
        failed |= cache.flush().is_err();
    }
    assert!(failed && cache.stats().dropped > 0);
    assert_eq!(got(&cache, "late-199").map(|text| text.len()), Some(100_000), "it is in memory");
    std::fs::remove_file(&ballast).unwrap();
    put(&cache, "room", "room", &[]);
    cache.flush().unwrap();
    cache.close().unwrap();
    let cache = open(&disk.0, &scene.cas, &COLD);
    assert_eq!(got(&cache, "early").as_deref(), Some("early"));
    assert_eq!(got(&cache, "room").as_deref(), Some("room"));
    cache.close().unwrap();
}
