//! A PKCS#11 token in a test: SoftHSM, which reads where its tokens are from the environment, once for a whole process.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::authority::TokenSettings;

/// What tells a test that it runs in a process of its own, and where.
const FOLDER: &str = "HAUBERK_TEST_SOFTHSM_FOLDER";

const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
];

const PIN: &str = "hauberk-0000";

/// A token, `mesh`, in a folder.
#[derive(Clone)]
pub(crate) struct SoftHsm {
    pub(crate) settings: TokenSettings,
    folder: PathBuf,
}

/// Runs the test of this name again in a process that has a token of its own. There it gets that; here it gets nothing, and
/// the other process has passed. Skipped where SoftHSM is not installed.
pub(crate) fn in_a_process_of_its_own(test: &str) -> Option<SoftHsm> {
    let Some(module) = MODULES.into_iter().map(PathBuf::from).find(|path| path.exists()) else {
        crate::skipped::skip("softhsm2 is not installed");
        return None;
    };
    if let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) {
        let settings = TokenSettings { module, label: "mesh".to_owned(), pin_file: folder.join("pin") };
        return Some(SoftHsm { settings, folder });
    }
    let folder = tempfile::tempdir().unwrap();
    let configuration = lay_out(folder.path());
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs([("SOFTHSM2_CONF", configuration.as_path()), (FOLDER, folder.path())])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{told}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(told.contains("1 passed"), "there is no test {test}: {told}");
    None
}

fn lay_out(folder: &Path) -> PathBuf {
    let (tokens, configuration, pin) =
        (folder.join("tokens"), folder.join("softhsm2.conf"), folder.join("pin"));
    fs::create_dir(&tokens).unwrap();
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
    fs::write(&configuration, text).unwrap();
    fs::write(&pin, PIN).unwrap();
    fs::set_permissions(&pin, Permissions::from_mode(0o600)).unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "mesh", "--pin", PIN, "--so-pin", "so-0000-so"])
        .env("SOFTHSM2_CONF", &configuration)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    configuration
}

impl SoftHsm {
    /// Takes the token away, as if it were unplugged; nothing where it is away.
    pub(crate) fn unplug(&self) {
        let _away = fs::rename(self.folder.join("tokens"), self.folder.join("away"));
    }

    /// Brings it back.
    pub(crate) fn plug_in(&self) {
        fs::rename(self.folder.join("away"), self.folder.join("tokens")).unwrap();
    }
}
