//! The shop as local processes: `edge → web → orders → payments`, an intruder, and the issuer that people sign in with.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, interval, sleep};

use super::account::{Account, Place};
use super::caller::{Caller, Target};
use super::error::DemoError;
use super::issuer::{ADDRESS_FILE, ROOTS_FILE};
use super::prepare;
use super::processes::{Processes, told_to_stop};
use crate::context::ContextStore;

/// Where it works.
#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// Where hauberk-control-plane and hauberk-agent lie [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// The name of the demo's context.
const CONTEXT: &str = "demo";
/// How the names of the folders begin in which demos work, and the one of the issuer in it.
pub(super) const FOLDER: &str = "hauberk-demo-";
pub(super) const LOGIN: &str = "login";
/// Everything is up within this, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(25);
/// Where apps listen: on the loopback, but where no agent is given a port that was free for an app a moment ago.
const APPS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// From one call of a caller to its next.
const PACE: Duration = Duration::from_millis(100);

/// A node of the shop, and what its app does.
pub(super) struct Node {
    pub(super) name: &'static str,
    /// What its app is told, where there is an app that is called.
    app: Option<&'static [&'static str]>,
    /// It is there for people, who do not come to a shop of containers.
    pub(super) is_for_people: bool,
}

/// Where people come in.
pub(super) const DOOR: &str = "edge";

/// Everybody in the shop.
pub(super) const NODES: [Node; 5] = [
    Node { name: "payments", app: Some(&[]), is_for_people: false },
    Node {
        name: "orders",
        app: Some(&[
            "--calls=/refund=POST http://payments/refund",
            "--calls=/card=",
            "--calls=POST http://payments/charge",
        ]),
        is_for_people: false,
    },
    Node { name: "web", app: Some(&["--relays=orders"]), is_for_people: false },
    Node { name: "intruder", app: None, is_for_people: false },
    Node { name: DOOR, app: None, is_for_people: true },
];

/// Runs the shop until it is told to stop.
pub(super) async fn run(arguments: UpArguments) -> Result<ExitCode, DemoError> {
    let stop = told_to_stop()?;
    let store = ContextStore::of_user()?;
    let previous = claim_context(&store)?;
    let folder = std::env::temp_dir().join(format!("{FOLDER}{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(DemoError::io(format!("cannot make {}", folder.display())))?;
    let result = match Processes::new(arguments.bin_dir, &folder) {
        Ok(mut processes) => {
            processes.guard_context(CONTEXT, &previous);
            let result = tokio::select! {
                result = shop(&mut processes, &store, &folder) => result,
                () = stop => Ok(()),
            };
            eprintln!("\nstopping …");
            processes.stop().await;
            result
        }
        Err(error) => Err(error),
    };
    forget_context(CONTEXT, &previous).await?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .map_err(DemoError::io(format!("cannot remove {}", folder.display())))?;
    }
    result.map(|()| ExitCode::SUCCESS)
}

async fn shop(processes: &mut Processes, store: &ContextStore, folder: &Path) -> Result<(), DemoError> {
    let mut account = Account::new(Place::Processes);
    let issuer = issuer(processes, &folder.join(LOGIN)).await?;
    let admin = control_plane(processes, store, folder).await?;
    account.control_plane(&admin, processes.pid("control-plane"));

    prepare::apply(Some(CONTEXT)).await?;
    prepare::people(Some(CONTEXT), &issuer).await?;
    prepare::bundle(Some(CONTEXT), &folder.join("bundle.pem"))?;
    let control_plane = addresses(&folder.join("store"))?;
    let control_plane = text(&control_plane, "agent")?;
    let own = std::env::current_exe()?;
    for node in &NODES {
        prepare::token(Some(CONTEXT), node.name, &folder.join(format!("token-{}", node.name)), "1").await?;
        let arguments = agent_arguments(node, folder, &control_plane, &own.display().to_string())?;
        processes.start(node.name, "hauberk-agent", &arguments)?;
    }
    for node in &NODES {
        ready(processes, &folder.join(node.name)).await?;
    }
    account.agents(NODES.len());

    let mut web = Call::new(folder, "web", "GET http://orders/orders/1")?;
    let mut intruder = Call::new(folder, "intruder", "POST http://payments/charge")?;
    let mut ticks = interval(PACE);
    loop {
        ticks.tick().await;
        for (name, status, log) in processes.ended() {
            account.ended(&name, status, &log);
            if name != "control-plane" {
                return Err(DemoError::Ended(name));
            }
        }
        account.web(web.once().await);
        account.intruder(intruder.once().await);
    }
}

/// Starts the issuer of the shop's people; its URL.
async fn issuer(processes: &mut Processes, folder: &Path) -> Result<String, DemoError> {
    std::fs::create_dir(folder).map_err(DemoError::io(format!("cannot make {}", folder.display())))?;
    let (own, place) = (std::env::current_exe()?.display().to_string(), folder.display().to_string());
    let arguments = ["demo", "issuer", "--folder", &place].map(str::to_owned);
    processes.start(LOGIN, &own, &arguments)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        check_running(processes)?;
        if let Ok(told) = std::fs::read(folder.join(ADDRESS_FILE)) {
            return text(&serde_json::from_slice(&told)?, "issuer");
        }
        if Instant::now() > deadline {
            return Err(DemoError::NotReady { state: folder.to_owned(), patience: PATIENCE });
        }
        sleep(POLL).await;
    }
}

fn check_running(processes: &mut Processes) -> Result<(), DemoError> {
    match processes.ended().into_iter().next() {
        Some((name, status, log)) => Err(DemoError::EndedEarly { name, status, log }),
        None => Ok(()),
    }
}

/// Starts a control plane on free ports and waits until it is ready; the address of its admin API.
async fn control_plane(
    processes: &mut Processes,
    store: &ContextStore,
    folder: &Path,
) -> Result<String, DemoError> {
    let data = folder.join("store");
    let data_dir = data.display().to_string();
    let init = tokio::process::Command::new(processes.binary("hauberk-control-plane"))
        .args(["init", "--data-dir", &data_dir, "--trust-domain", "shop.demo", "--context", CONTEXT])
        .output()
        .await
        .map_err(DemoError::io("hauberk-control-plane does not start"))?;
    if !init.status.success() {
        let said = String::from_utf8_lossy(&init.stderr).trim().to_owned();
        return Err(DemoError::Command { command: "hauberk-control-plane init".to_owned(), said });
    }
    let admin = free_port(Ipv4Addr::LOCALHOST)?.to_string();
    let listen = |flag: &str, address: &str| [flag.to_owned(), address.to_owned()];
    let arguments = [
        vec!["run".to_owned()],
        listen("--data-dir", &data_dir).to_vec(),
        listen("--agent-listen", "127.0.0.1:0").to_vec(),
        listen("--admin-listen", &admin).to_vec(),
        listen("--health-listen", "127.0.0.1:0").to_vec(),
        listen("--web-roots", &folder.join(LOGIN).join(ROOTS_FILE).display().to_string()).to_vec(),
    ];
    processes.start("control-plane", "hauberk-control-plane", &arguments.concat())?;
    ready(processes, &data).await?;
    store.update(|contexts| {
        if let Some(context) = contexts.contexts.get_mut(CONTEXT) {
            context.server.clone_from(&admin);
        }
    })?;
    Ok(admin)
}

fn agent_arguments(
    node: &Node,
    folder: &Path,
    control_plane: &str,
    own: &str,
) -> Result<Vec<String>, DemoError> {
    let place = |file: &str| folder.join(file).display().to_string();
    let (state, token, bundle) =
        (place(node.name), place(&format!("token-{}", node.name)), place("bundle.pem"));
    let mut arguments: Vec<String> = [
        ["run", "--control-plane", control_plane].as_slice(),
        &["--state-dir", &state, "--join-token-file", &token, "--bundle-file", &bundle],
        &["--advertise-ip", "127.0.0.1", "--outbound", "127.0.0.1:0"],
        &["--admin", "127.0.0.1:0", "--health", "127.0.0.1:0"],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect();
    if let Some(told) = node.app {
        let app = free_port(APPS)?.to_string();
        arguments.extend(["--listener".to_owned(), format!("8080,inbound=127.0.0.1:0,app={app}")]);
        let serve = ["--", own, "demo", "serve", "--name", node.name, "--listen", &app];
        arguments.extend(serve.map(str::to_owned));
        arguments.extend(told.iter().map(|told| (*told).to_owned()));
    }
    Ok(arguments)
}

/// A caller behind a node's agent.
struct Call {
    caller: Caller,
    target: Target,
}

impl Call {
    fn new(folder: &Path, node: &str, target: &str) -> Result<Self, DemoError> {
        let outbound = text(&addresses(&folder.join(node))?, "outbound")?;
        Ok(Self { caller: Caller::new(outbound.parse()?), target: Target::parse(target)? })
    }

    async fn once(&mut self) -> Result<super::caller::Answer, DemoError> {
        self.caller.call(&self.target).await
    }
}

/// Waits until a process says where it listens and that it is ready.
async fn ready(processes: &mut Processes, state: &Path) -> Result<(), DemoError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        check_running(processes)?;
        if let Ok(health) = addresses(state).and_then(|found| text(&found, "health")) {
            let probe = Target::parse(&format!("http://{health}/readyz"))?;
            if Caller::new(health.parse()?).call(&probe).await.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
        }
        if Instant::now() > deadline {
            return Err(DemoError::NotReady { state: state.to_owned(), patience: PATIENCE });
        }
        sleep(POLL).await;
    }
}

pub(super) fn addresses(state: &Path) -> Result<Value, DemoError> {
    Ok(serde_json::from_slice(&std::fs::read(state.join("addresses.json"))?)?)
}

pub(super) fn text(value: &Value, name: &str) -> Result<String, DemoError> {
    value
        .get(name)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| DemoError::NoAddress(name.to_owned()))
}

fn free_port(address: Ipv4Addr) -> Result<SocketAddr, DemoError> {
    let listener = TcpListener::bind((address, 0)).map_err(DemoError::io("no free port"))?;
    Ok(listener.local_addr()?)
}

/// Makes sure that no other demo runs; the name of the context that was current, or nothing.
fn claim_context(store: &ContextStore) -> Result<String, DemoError> {
    let contexts = store.load()?;
    if let Some(other) = contexts.contexts.get(CONTEXT) {
        if TcpStream::connect(&other.server).is_ok() {
            return Err(DemoError::InUse { context: CONTEXT, server: other.server.clone() });
        }
        store.update(|contexts| contexts.contexts.remove(CONTEXT).map(drop))?;
    }
    Ok(contexts.current.filter(|current| current != CONTEXT).unwrap_or_default())
}

/// Takes the demo's context away and makes the former one current again.
///
/// # Errors
/// The file cannot be read or written.
pub(super) async fn forget_context(name: &str, previous: &str) -> Result<(), DemoError> {
    let store = ContextStore::of_user()?;
    store.update(|contexts| {
        contexts.contexts.remove(name);
        if contexts.current.as_deref() == Some(name) {
            contexts.current =
                Some(previous.to_owned()).filter(|previous| contexts.contexts.contains_key(previous));
        }
    })?;
    Ok(())
}
