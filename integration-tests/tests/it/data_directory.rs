//! What the control plane finds when it starts: a data directory in use, damaged, of another release, on a full disk;
//! ports that are taken; settings that cannot be. It says what is wrong and what to do, and serves nothing it cannot
//! trust.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hauberk_integration_tests::{Excuse, MeshBox, excuse};

const MESH: &str = "kind: Mesh\nname: shop\n---\nkind: VirtualNode\nmesh: shop\nname: orders\nspec: {}\n";

#[test]
fn a_data_directory_in_use_is_left_alone() {
    let mesh = MeshBox::start();
    mesh.apply(MESH);
    let second = mesh.refused_start(&[]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("in use by another control plane"), "{}", second.stderr);
    let data = mesh.data_dir();
    let again = mesh.control_plane_command(&[
        "init",
        "--trust-domain",
        "box.test",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.stderr.contains("not overwritten") || again.stderr.contains("in use"), "{}", again.stderr);
    mesh.hauberk(&["get", "vn", "orders"]).ok();
}

#[test]
fn init_that_may_find_an_installation_changes_nothing_there() {
    let mesh = MeshBox::start();
    mesh.apply(MESH);
    let data = mesh.data_dir();
    let data = data.to_str().unwrap();
    let init = [
        "init",
        "--unless-initialized",
        "--trust-domain",
        "other.test",
        "--data-dir",
        data,
        "--context",
        "other",
    ];
    let found = mesh.control_plane_command(&init);
    assert_eq!(found.code, 0, "{found:?}");
    assert!(found.stdout.contains("nothing is changed"), "{}", found.stdout);
    assert!(!mesh.hauberk(&["context", "list"]).ok().stdout.contains("other"), "a context was written");
    mesh.hauberk(&["get", "vn", "orders"]).ok();

    let begun = mesh.folder().join("begun");
    fs::create_dir(&begun).unwrap();
    fs::write(begun.join("init-unfinished"), b"").unwrap();
    let begun = begun.to_str().unwrap();
    let refused = mesh.control_plane_command(&[
        "init",
        "--unless-initialized",
        "--trust-domain",
        "other.test",
        "--data-dir",
        begun,
    ]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("did not finish"), "{}", refused.stderr);
}

#[test]
fn init_tells_the_command_that_runs_what_it_has_founded() {
    let mesh = MeshBox::start();
    let data = mesh.folder().join("a data directory");
    let key = mesh.folder().join("key");
    let (data, key) = (data.to_str().unwrap(), key.to_str().unwrap());
    let more = ["--context", "other", "--kek-file", key, "--admin-listen", "127.0.0.1:17444"];
    let init = ["init", "--trust-domain", "other.test", "--data-dir", data];
    let told = mesh.control_plane_command(&[&init[..], &more].concat()).ok().stdout;
    let next = format!(
        "Next: hauberk-control-plane run --data-dir '{data}' --admin-listen 127.0.0.1:17444 --kek-file {key}"
    );
    assert_eq!(told.lines().last(), Some(next.as_str()), "{told}");
}

/// sled's own log in the data directory.
pub(crate) fn log_file(mesh: &MeshBox) -> PathBuf {
    fn find(folder: &Path) -> Option<PathBuf> {
        let entries: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let own = entries.iter().find(|path| path.is_file() && path.file_name().unwrap() == "db").cloned();
        own.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path)))
    }
    find(&mesh.data_dir()).expect("a store is there")
}

/// Copies the data directory aside.
pub(crate) fn keep(mesh: &MeshBox) -> PathBuf {
    let kept = mesh.folder().join("kept");
    let status = Command::new("cp").arg("-a").arg(mesh.data_dir()).arg(&kept).status().unwrap();
    assert!(status.success());
    kept
}

/// Puts the copy back.
pub(crate) fn put_back(mesh: &MeshBox, kept: &Path) {
    fs::remove_dir_all(mesh.data_dir()).unwrap();
    let status = Command::new("cp").arg("-a").arg(kept).arg(mesh.data_dir()).status().unwrap();
    assert!(status.success());
}

fn stopped_with_a_marker() -> (MeshBox, PathBuf) {
    let mut mesh = MeshBox::start();
    mesh.apply(MESH);
    for number in 0..20 {
        mesh.apply(&format!("kind: VirtualNode\nmesh: shop\nname: marker-{number}\nspec: {{}}\n"));
    }
    assert!(mesh.control_plane().stop(Duration::from_secs(20)).success());
    mesh.kill_control_plane();
    let kept = keep(&mesh);
    (mesh, kept)
}

#[test]
fn a_damaged_store_is_refused_and_never_begun_anew() {
    let (mut mesh, kept) = stopped_with_a_marker();
    let damage = |what: &str, mesh: &MeshBox| {
        let refused = mesh.refused_start(&[]);
        assert_eq!(refused.code, 1, "{what}: {refused:?}");
        assert!(refused.stderr.contains("damaged"), "{what}: {}", refused.stderr);
        assert!(refused.stderr.contains("backup"), "{what}: it says what to do: {}", refused.stderr);
        assert!(!mesh.data_dir().join("addresses.json").exists(), "{what}: it was served");
    };

    // One bit of every copy of a resource's name.
    let log = log_file(&mesh);
    let mut bytes = fs::read(&log).unwrap();
    let needle = b"marker-13";
    let places: Vec<usize> =
        (0..bytes.len() - needle.len()).filter(|&at| bytes[at..].starts_with(needle)).collect();
    assert!(!places.is_empty(), "the resource is in the log");
    for &place in &places {
        bytes[place] ^= 1;
    }
    fs::write(&log, &bytes).unwrap();
    damage("flipped bits", &mesh);

    put_back(&mesh, &kept);
    let length = fs::metadata(&log).unwrap().len();
    let last = places.iter().max().copied().unwrap() as u64;
    fs::File::options().write(true).open(&log).unwrap().set_len(last).unwrap();
    damage("cut short", &mesh);

    put_back(&mesh, &kept);
    let file = fs::File::options().write(true).open(&log).unwrap();
    file.write_all_at(&vec![0; length as usize], 0).unwrap();
    damage("zeroes", &mesh);

    put_back(&mesh, &kept);
    fs::remove_dir_all(log.parent().unwrap()).unwrap();
    let refused = mesh.refused_start(&[]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("init"), "{}", refused.stderr);

    put_back(&mesh, &kept);
    mesh.restart_control_plane();
    mesh.hauberk(&["get", "vn", "marker-13"]).ok();
}

#[test]
fn a_flipped_bit_anywhere_is_either_refused_or_harmless() {
    let (mut mesh, kept) = stopped_with_a_marker();
    let log = log_file(&mesh);
    let length = fs::metadata(&log).unwrap().len();
    let before = {
        mesh.restart_control_plane();
        let before = mesh.hauberk(&["get", "all", "-o", "name"]).ok().stdout;
        mesh.kill_control_plane();
        before
    };
    for step in 0..6 {
        put_back(&mesh, &kept);
        let place = length * (2 * step + 1) / 12;
        let file = fs::File::options().read(true).write(true).open(&log).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], place).unwrap();
        if let Some(refused) = mesh.try_restart_control_plane() {
            assert_eq!(refused.code, 1, "{place}: {refused:?}");
            assert!(refused.stderr.contains("damaged"), "{place}: {}", refused.stderr);
        } else {
            assert_eq!(mesh.hauberk(&["get", "all", "-o", "name"]).ok().stdout, before, "{place}");
            mesh.kill_control_plane();
        }
    }
}

#[test]
fn a_store_of_a_newer_release_is_not_touched() {
    let (mut mesh, kept) = stopped_with_a_marker();
    {
        let store = sled::open(log_file(&mesh).parent().unwrap()).unwrap();
        let tree = store.open_tree("registry").unwrap();
        let (key, value) = tree.iter().next().unwrap().unwrap();
        let mut newer = value.to_vec();
        newer[0] = 9;
        tree.insert(key, newer).unwrap();
        store.flush().unwrap();
    }
    let refused = mesh.refused_start(&[]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("format 9") && refused.stderr.contains("newer release"),
        "{}",
        refused.stderr
    );
    put_back(&mesh, &kept);
    mesh.restart_control_plane();
}

#[test]
fn ports_that_are_taken_are_named() {
    let mut mesh = MeshBox::start();
    mesh.kill_control_plane();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for listener in ["--agent-listen", "--admin-listen", "--health-listen"] {
        let refused = mesh.refused_start(&[listener, &address]);
        assert_eq!(refused.code, 1, "{listener}: {refused:?}");
        assert!(refused.stderr.contains(&address), "{listener}: {}", refused.stderr);
    }
    mesh.restart_control_plane();
}

#[test]
fn all_mistakes_of_the_configuration_are_told_at_once() {
    let mut mesh = MeshBox::start();
    mesh.kill_control_plane();
    let refused = mesh.refused_start(&["--svid-ttl", "5s", "--log-format", "xml", "--admin-listen", "here"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    for words in ["--svid-ttl", "1m to 24h", "--log-format", "xml", "--admin-listen", "here"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
}

/// Unmounts when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost_by_it() {
    let mut mesh = MeshBox::start();
    mesh.apply(MESH);
    mesh.kill_control_plane();
    let kept = keep(&mesh);
    let data = mesh.data_dir();
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=32m,mode=0700", "tmpfs"]).arg(&data).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return excuse(Excuse::Kernel, "a small file system, whose mount takes root");
    }
    let _mounted = Mounted(data.clone());
    let copied = Command::new("cp").arg("-a").arg(kept.join(".")).arg(&data).status().unwrap();
    assert!(copied.success());
    mesh.restart_control_plane();
    mesh.apply("kind: VirtualNode\nmesh: shop\nname: before\nspec: {}\n");

    let filler = data.join("filler");
    let file = fs::File::create(&filler).unwrap();
    let mut written = 0;
    while file.write_at(&[7; 65536], written).is_ok_and(|count| count > 0) {
        written += 65536;
    }
    let output = mesh
        .hauberk_with_input(&["apply", "-f", "-"], "kind: VirtualNode\nmesh: shop\nname: during\nspec: {}\n");
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("full"), "{}", output.stderr);
    mesh.hauberk(&["get", "vn", "before"]).ok();
    assert_eq!(mesh.hauberk(&["get", "vn", "during"]).code, 1);

    mesh.kill_control_plane();
    // Its files take no room any longer.
    while file.write_at(&[7; 4096], written).is_ok_and(|count| count > 0) {
        written += 4096;
    }
    let refused = mesh.refused_start(&[]);
    assert_eq!(refused.code, 1, "{refused:?}");
    for words in [data.to_str().unwrap(), "is full", "KiB left", "free some space"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    assert!(!refused.stderr.contains("damaged"), "{}", refused.stderr);

    drop(file);
    fs::remove_file(&filler).unwrap();
    mesh.restart_control_plane();
    mesh.apply("kind: VirtualNode\nmesh: shop\nname: after\nspec: {}\n");
    mesh.restart_control_plane();
    for name in ["before", "after"] {
        mesh.hauberk(&["get", "vn", name]).ok();
    }
    assert_eq!(mesh.hauberk(&["get", "vn", "during"]).code, 1, "what was refused did not happen");
}
