//! Files that belong together and change at once, as Kubernetes does it for mounted secrets: each lies in the directory
//! of its generation, `..data` is a link to the newest of those, and every file that programs know is a link through
//! it. One rename of `..data` changes all of them. The generation before stays, for who is reading there.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use zeroize::Zeroizing;

use super::directory;
use crate::random;

/// The link to the newest generation.
const NEWEST: &str = "..data";
/// What the directories of generations begin with.
const GENERATION: &str = "..generation-";

/// A file of a set.
#[derive(PartialEq, Eq)]
pub(super) struct SetFile {
    /// Its name, or that of a folder with its own after a slash.
    pub(super) name: String,
    pub(super) content: Zeroizing<Vec<u8>>,
    pub(super) mode: u32,
}

/// Puts a set in place of the former. After a crash either is there whole.
pub(super) fn publish(directory: &Path, files: &[SetFile]) -> io::Result<()> {
    if !directory.exists() {
        directory::make(directory)?;
    }
    let names: BTreeSet<&str> = files.iter().map(SetFile::outer).collect();
    for name in names.iter().copied().chain([NEWEST]) {
        // A link takes the place of a file, and of no directory: it may hold what is somebody's.
        if fs::symlink_metadata(directory.join(name)).is_ok_and(|found| found.is_dir()) {
            let problem = format!("{name} is a directory, and is to be a link: remove it");
            return Err(io::Error::new(io::ErrorKind::IsADirectory, problem));
        }
    }
    let former = fs::read_link(directory.join(NEWEST)).ok();
    let unique = random::bytes::<8>().map_err(io::Error::other)?;
    let generation = format!("{GENERATION}{:016x}", u64::from_be_bytes(unique));
    let written = write(&directory.join(&generation), files);
    if let Err(error) = written.and_then(|()| link(directory, NEWEST, generation.as_ref())) {
        // There may be a key in it, and no later attempt has its name.
        let is_newest =
            fs::read_link(directory.join(NEWEST)).is_ok_and(|newest| newest == Path::new(&generation));
        if !is_newest {
            let _ = fs::remove_dir_all(directory.join(&generation));
        }
        return Err(error);
    }
    for name in &names {
        let target = Path::new(NEWEST).join(name);
        if fs::read_link(directory.join(name)).ok().as_deref() != Some(&target) {
            link(directory, name, target.as_os_str())?;
        }
    }
    let kept = [Some(generation.as_ref()), former.as_deref().and_then(Path::file_name)];
    tidy(directory, &names, &kept)
}

impl SetFile {
    /// What programs know is a link: the file, or the folder that it is in.
    fn outer(&self) -> &str {
        self.name.split('/').next().unwrap_or(&self.name)
    }
}

fn write(generation: &Path, files: &[SetFile]) -> io::Result<()> {
    directory::make(generation)?;
    let mut folders = BTreeSet::new();
    for SetFile { name, content, mode } in files {
        let path = generation.join(name);
        if let Some((folder, _)) = name.split_once('/')
            && folders.insert(folder)
        {
            directory::make(&generation.join(folder))?;
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(*mode))?;
        file.sync_all()?;
    }
    for folder in folders {
        File::open(generation.join(folder))?.sync_all()?;
    }
    File::open(generation)?.sync_all()
}

/// Makes a link in place of what has its name.
fn link(directory: &Path, name: &str, target: &OsStr) -> io::Result<()> {
    let temporary = directory.join(format!("..new-{}", name.trim_start_matches('.')));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(target, &temporary)?;
    if let Err(error) = fs::rename(&temporary, directory.join(name)) {
        // Nobody knows it by this name.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

/// Removes former generations, and links to files that are in the set no longer.
fn tidy(directory: &Path, names: &BTreeSet<&str>, kept: &[Option<&OsStr>]) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_generation = name.to_str().is_some_and(|name| name.starts_with(GENERATION));
        if is_generation {
            if !kept.contains(&Some(&name)) {
                fs::remove_dir_all(entry.path())?;
            }
        } else if !name.to_str().is_some_and(|name| names.contains(name))
            && fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(NEWEST))
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn file(name: &str, content: &str, mode: u32) -> SetFile {
        SetFile { name: name.to_owned(), content: Zeroizing::new(content.as_bytes().to_vec()), mode }
    }

    fn text(directory: &Path, name: &str) -> String {
        fs::read_to_string(directory.join(name)).unwrap()
    }

    #[test]
    fn all_of_a_set_change_and_what_is_in_it_no_longer_goes() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("made");
        publish(&directory, &[file("key", "k1", 0o640), file("old", "o1", 0o644)]).unwrap();
        fs::write(directory.join("cert"), "somebody else's, in the way").unwrap();
        fs::write(directory.join("mine"), "not ours").unwrap();
        publish(&directory, &[file("key", "k2", 0o600), file("cert", "c2", 0o644)]).unwrap();
        assert_eq!((text(&directory, "key"), text(&directory, "cert")), ("k2".to_owned(), "c2".to_owned()));
        assert!(fs::symlink_metadata(directory.join("old")).is_err());
        assert_eq!(text(&directory, "mine"), "not ours");
        let mode = |name: &str| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("key"), mode("cert")), (0o600, 0o644));
        for round in 3..9 {
            publish(&directory, &[file("key", &format!("k{round}"), 0o600)]).unwrap();
        }
        let generations = fs::read_dir(&directory)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(GENERATION));
        assert_eq!(generations.count(), 2, "the newest, and the one before");
    }

    #[test]
    fn a_folder_of_a_set_changes_with_it_and_goes_with_its_last_file() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let of = |names: &[&str]| names.iter().map(|name| file(name, name, 0o644)).collect::<Vec<_>>();
        publish(directory, &of(&["cert", "others/a.pem", "others/b.pem"])).unwrap();
        assert_eq!(text(directory, "others/b.pem"), "others/b.pem");
        publish(directory, &of(&["cert", "others/a.pem"])).unwrap();
        assert_eq!(text(directory, "others/a.pem"), "others/a.pem");
        assert!(!directory.join("others/b.pem").exists());
        publish(directory, &of(&["cert"])).unwrap();
        assert!(fs::symlink_metadata(directory.join("others")).is_err());
    }

    #[test]
    fn what_could_not_be_put_in_place_leaves_no_key_behind() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let names = || {
            let names = fs::read_dir(directory).unwrap();
            names.map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>()
        };
        publish(directory, &[file("key", "k1", 0o600)]).unwrap();
        let before = names();
        // Written half, as where the disk is full: there is no such folder.
        publish(directory, &[file("key", "k2", 0o600), file("a/b/c", "", 0o644)]).unwrap_err();
        assert_eq!(names(), before);
        // Written whole, and the link cannot be made.
        let in_the_way = directory.join("..new-data");
        fs::create_dir(&in_the_way).unwrap();
        publish(directory, &[file("key", "k3", 0o600)]).unwrap_err();
        fs::remove_dir(&in_the_way).unwrap();
        assert_eq!(names(), before);
        assert_eq!(text(directory, "key"), "k1");
        publish(directory, &[file("key", "k4", 0o600)]).unwrap();
        assert_eq!(text(directory, "key"), "k4");
    }

    #[test]
    fn a_directory_in_the_place_of_a_file_is_named_and_nothing_changes() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        fs::create_dir(directory.join("crl.pem")).unwrap();
        let error = publish(directory, &[file("cert", "c1", 0o644), file("crl.pem", "", 0o644)]).unwrap_err();
        assert!(error.to_string().starts_with("crl.pem is a directory"), "{error}");
        let names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["crl.pem"]);
        // As where it comes after that was looked at.
        link(directory, "crl.pem", "..data/crl.pem".as_ref()).unwrap_err();
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
    }

    #[test]
    fn nobody_sees_halves_of_two_sets() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let set = |number: usize| {
            let text = number.to_string();
            [file("key", &text, 0o600), file("cert", &text, 0o644)]
        };
        publish(directory, &set(0)).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0;
                while !is_over.load(Ordering::Relaxed) {
                    // As a program does that wants both: it finds the generation first.
                    let generation = directory.join(fs::read_link(directory.join(NEWEST)).unwrap());
                    let read = |name: &str| fs::read_to_string(generation.join(name));
                    match (read("key"), read("cert")) {
                        (Ok(key), Ok(cert)) => {
                            assert_eq!(key, cert);
                            seen += 1;
                        }
                        // Two changes went by meanwhile.
                        (Err(error), _) | (_, Err(error)) => {
                            assert_eq!(error.kind(), io::ErrorKind::NotFound);
                        }
                    }
                }
                seen
            });
            for number in 1..100 {
                publish(directory, &set(number)).unwrap();
                // Each on its own is always there.
                assert_eq!(text(directory, "key"), number.to_string());
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }
}
