//! Issues short-lived service certificates and pushes authorization rules.
#![forbid(unsafe_code)]

mod allocator;
mod healthz;
mod token_arguments;
mod upstream_arguments;
mod web_arguments;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use hauberk_control_plane::admins::{self, Context, Role};
use hauberk_control_plane::app;
use hauberk_control_plane::clock::Clock;
use hauberk_control_plane::config::{ConfigError, Settings};
use hauberk_control_plane::{init, restored, rpc, telemetry};
use hauberk_identity::{Name, TrustDomain};
use hauberk_policy::shell_quote;
use hauberk_proto::admin::v1::IssueCredentialRequest;
use hauberk_tls::{CertificateRequest, KeyPair, Svid, TrustBundle};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use healthz::{HealthzArguments, healthz};
use token_arguments::TokenArguments;
use upstream_arguments::UpstreamArguments;
use web_arguments::WebArguments;

/// The mistake is in the command line or the configuration.
const EXIT_USAGE: u8 = 2;
/// How long the last threads may take once all work is done.
const THREADS_END_WITHIN: Duration = Duration::from_secs(2);

/// Issues short-lived service certificates and pushes authorization rules to the agents of a mesh.
#[derive(Parser)]
#[command(name = "hauberk-control-plane", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Found an installation: data directory, authorities, first admin
    Init(InitArguments),
    /// Serve agents and admins
    Run(Box<RunArguments>),
    /// Say that the data directory was put back from a backup, before `run`: agents take its views and are let in by
    /// certificates that it does not know
    Restored(Place),
    /// Issue admins' credentials on this host
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Ask the running control plane whether it is ready: exit status 0 or 1
    Healthz(HealthzArguments),
    /// Answer questions about resources, from standard input to standard output: for `hauberk policy test`
    Answer,
}

#[derive(Subcommand)]
enum AdminCommand {
    /// Issue a credential through the running control plane, and make the admin if there is none of this name
    Issue(IssueArguments),
}

#[derive(Args)]
struct Place {
    /// The data directory [default: /var/lib/hauberk] [env: HAUBERK_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// A TOML file with settings [env: HAUBERK_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct InitArguments {
    #[command(flatten)]
    place: Place,
    /// The trust domain of all identities, such as shop.example; it cannot be changed later
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// A DNS name or IP address by which this control plane is reached; may be repeated [env: HAUBERK_SAN]
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// Where the key-encryption key is written [default: key-encryption-key in the data directory]
    /// [env: HAUBERK_KEK_FILE]
    #[arg(long, value_name = "FILE")]
    kek_file: Option<String>,
    #[command(flatten)]
    token: TokenArguments,
    /// Where the admin API will be [default: 127.0.0.1:7444] [env: HAUBERK_ADMIN_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// The name of the context that the first admin gets [default: the trust domain]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The context file [default: contexts.toml in $HAUBERK_HOME, else in ~/.config/hauberk]
    #[arg(long, value_name = "FILE")]
    context_file: Option<PathBuf>,
    /// Succeed and change nothing where an installation stands already
    #[arg(long)]
    unless_initialized: bool,
}

#[derive(Args)]
struct RunArguments {
    #[command(flatten)]
    place: Place,
    /// Where agents connect [default: 0.0.0.0:7443] [env: HAUBERK_AGENT_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    agent_listen: Option<String>,
    /// Where admins connect [default: 127.0.0.1:7444] [env: HAUBERK_ADMIN_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Where probes and scrapers connect [default: 127.0.0.1:7445] [env: HAUBERK_HEALTH_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    health_listen: Option<String>,
    /// A DNS name or IP address for the server certificate; may be repeated [default: those given to init, else
    /// localhost, 127.0.0.1, ::1 and the host's name] [env: HAUBERK_SAN]
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// The life of agents' certificates, 1m to 24h [default: 1h] [env: HAUBERK_SVID_TTL]
    #[arg(long, value_name = "DURATION")]
    svid_ttl: Option<String>,
    /// The life of JWT-SVIDs, 1m to 1h [default: 5m] [env: HAUBERK_JWT_SVID_TTL]
    #[arg(long, value_name = "DURATION")]
    jwt_svid_ttl: Option<String>,
    #[command(flatten)]
    web: WebArguments,
    #[command(flatten)]
    upstream: UpstreamArguments,
    /// A Kubernetes cluster that can be asked whose a pod's token is, for enrollments with `tokenReview: NAME`; DIRECTORY
    /// holds its ca.crt, and a token of ours; may be repeated [env: HAUBERK_TOKEN_REVIEW]
    #[arg(long, value_name = "NAME=HOST:PORT=DIRECTORY")]
    token_review: Vec<String>,
    /// The file of the key-encryption key [default: key-encryption-key in the data directory]
    /// [env: HAUBERK_KEK_FILE]
    #[arg(long, value_name = "FILE")]
    kek_file: Option<String>,
    #[command(flatten)]
    token: TokenArguments,
    /// Which log events are written, such as info or hauberk_control_plane=debug [default: info] [env: HAUBERK_LOG]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// auto, json or text [default: auto] [env: HAUBERK_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// How long a graceful stop may take, 1s to 10m [default: 20s] [env: HAUBERK_SHUTDOWN_DEADLINE]
    #[arg(long, value_name = "DURATION")]
    shutdown_deadline: Option<String>,
}

#[derive(Args)]
struct IssueArguments {
    /// The admin
    name: Name,
    #[command(flatten)]
    place: Place,
    /// For an admin that does not exist yet: viewer, editor, policy-admin, identity-admin, boundary-admin or owner;
    /// may be repeated [default: owner]
    #[arg(long, value_name = "ROLE", value_parser = parse_role)]
    role: Vec<Role>,
    /// Where this admin reaches the admin API [default: where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// The name of the context that is written [default: the trust domain for the first admin, NAME@trust-domain for
    /// others]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The context file [default: contexts.toml in $HAUBERK_HOME, else in ~/.config/hauberk]
    #[arg(long, value_name = "FILE")]
    context_file: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            let usage = error.downcast_ref::<ConfigError>().is_some();
            // When standard error is closed there is nobody left to tell.
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(if usage { EXIT_USAGE } else { 1 })
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    // Every command but `healthz` holds keys. It works where that cannot be had, and whoever runs it learns of it.
    if let Err(error) = hauberk_tls::forbid_dumps() {
        let _closed =
            writeln!(std::io::stderr(), "warning: a core file of this process would hold keys: {error}");
    }
    hauberk_tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")?;
    let result = match command {
        Command::Init(arguments) => runtime.block_on(found(arguments)),
        Command::Run(arguments) => runtime.block_on(serve(*arguments)),
        Command::Restored(place) => runtime.block_on(mark_restored(place)),
        Command::Admin(AdminCommand::Issue(arguments)) => runtime.block_on(issue(arguments)),
        Command::Healthz(arguments) => runtime.block_on(healthz(arguments)),
        Command::Answer => Ok(rpc::answer_offline(std::io::stdin(), std::io::stdout())?),
    };
    // Threads that have used a PKCS#11 module end before the process does: at their end they free what the module's
    // libraries keep for them, which the process's end frees too. A call that hangs is not waited for.
    runtime.shutdown_timeout(THREADS_END_WITHIN);
    result
}

async fn found(arguments: InitArguments) -> anyhow::Result<ExitCode> {
    let InitArguments {
        place,
        trust_domain,
        san,
        kek_file,
        token,
        admin_listen,
        context,
        context_file,
        unless_initialized,
    } = arguments;
    let config = place.config.as_ref().map(|path| path.display().to_string());
    let flags: BTreeMap<_, _> =
        [("kek-file", kek_file), ("admin-listen", admin_listen)].into_iter().chain(token.flags()).collect();
    // What was said here is to be said to `run` too.
    let said = [("config", &config)].into_iter().chain(flags.iter().map(|(name, value)| (*name, value)));
    let again = said.filter_map(|(name, value)| Some(format!(" --{name} {}", shell_quote(value.as_ref()?))));
    let again: String = again.collect();
    let flags = flags.into_iter().chain([("data-dir", place.data_dir)]).collect();
    let settings = Settings::of_process(flags, [("san", san)], place.config.as_deref())?;
    if unless_initialized && init::is_founded(&settings)? {
        let data_dir = settings.data_dir.display();
        writeln!(std::io::stdout(), "{data_dir} holds an installation already: nothing is changed")?;
        return Ok(ExitCode::SUCCESS);
    }
    let context_file = context_file.map_or_else(|| admins::contexts_path(variable), Ok)?;
    let context = context.unwrap_or_else(|| trust_domain.to_string());
    let data_dir = shell_quote(&settings.data_dir.display().to_string());
    let founded = init::init(settings, &trust_domain, &context, &context_file, Clock::system()).await?;
    let keys = founded.token.map_or_else(String::new, |(label, serial)| {
        format!("authorities' keys in the token {label:?} (serial number {serial})\n")
    });
    writeln!(
        std::io::stdout(),
        "trust domain      {trust_domain}\n\
         root fingerprint  {}\n\
         {keys}context           {context} in {} (good until {})\n\n\
         Next: hauberk-control-plane run --data-dir {data_dir}{again}",
        founded.root_fingerprint,
        context_file.display(),
        founded.credential_not_after,
    )?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(arguments: RunArguments) -> anyhow::Result<ExitCode> {
    let RunArguments {
        place,
        agent_listen,
        admin_listen,
        health_listen,
        san,
        svid_ttl,
        jwt_svid_ttl,
        web,
        upstream,
        token_review,
        kek_file,
        token,
        log,
        log_format,
        shutdown_deadline,
    } = arguments;
    let flags: BTreeMap<_, _> = [
        ("data-dir", place.data_dir),
        ("agent-listen", agent_listen),
        ("admin-listen", admin_listen),
        ("health-listen", health_listen),
        ("svid-ttl", svid_ttl),
        ("jwt-svid-ttl", jwt_svid_ttl),
        ("kek-file", kek_file),
        ("log", log),
        ("log-format", log_format),
        ("shutdown-deadline", shutdown_deadline),
    ]
    .into_iter()
    .chain(web.flags())
    .chain(token.flags())
    .chain(upstream.flags())
    .collect();
    let many = [("san", san), ("token-review", token_review)];
    let settings = Settings::of_process(flags.clone(), many.clone(), place.config.as_deref())?;
    let log_control = telemetry::start(&settings.log, settings.log_format)?;
    hauberk_control_plane::limits::raise_open_files();

    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let running = app::run(settings, Clock::system(), log_control.clone(), stop.clone());
    tokio::pin!(running);
    loop {
        tokio::select! {
            result = &mut running => return result.map(|()| ExitCode::SUCCESS).map_err(Into::into),
            _ = hangup.recv() => {
                let reloaded = Settings::of_process(flags.clone(), many.clone(), place.config.as_deref())
                    .map_err(anyhow::Error::from)
                    .and_then(|settings| log_control.set_filter(&settings.log).map_err(Into::into));
                if let Err(error) = reloaded {
                    tracing::error!(event = "reload_failed", error = format!("{error:#}"), "the former log filter stays");
                }
            }
            _ = terminate.recv() => if stop_or_quit(&stop) { return Ok(ExitCode::FAILURE) },
            _ = interrupt.recv() => if stop_or_quit(&stop) { return Ok(ExitCode::FAILURE) },
        }
    }
}

/// The first signal asks for a graceful stop; the second means now. What was acknowledged is on the disk either way.
fn stop_or_quit(stop: &CancellationToken) -> bool {
    let again = stop.is_cancelled();
    if again {
        tracing::warn!(event = "quit", "stopping at once");
    }
    stop.cancel();
    again
}

async fn mark_restored(place: Place) -> anyhow::Result<ExitCode> {
    let settings = Settings::of_process([("data-dir", place.data_dir)].into(), [], place.config.as_deref())?;
    let restored::Restored { trust_domain, epoch, until } =
        restored::mark(&settings, &Clock::system()).await?;
    writeln!(
        std::io::stdout(),
        "{trust_domain} goes on from here as epoch {epoch}. Certificates that were issued until now are good though they are on no \
         record, until they expire, at the latest at {until}"
    )?;
    Ok(ExitCode::SUCCESS)
}

async fn issue(arguments: IssueArguments) -> anyhow::Result<ExitCode> {
    let IssueArguments { name, place, role, server, context, context_file } = arguments;
    let settings = Settings::of_process([("data-dir", place.data_dir)].into(), [], place.config.as_deref())?;
    let context_file = context_file.map_or_else(|| admins::contexts_path(variable), Ok)?;
    let key = KeyPair::generate()?;
    let request = IssueCredentialRequest {
        name: name.to_string(),
        roles: rpc::message::roles(&role),
        csr: CertificateRequest::create(&key)?,
    };
    let credential = rpc::issue_through_socket(&settings.admin_socket(), request).await?;
    let trust_domain = TrustDomain::parse(&credential.trust_domain)?;
    let svid = Svid::from_der(credential.chain)?;
    let written = Context {
        server: server.unwrap_or(credential.server),
        trust_domain: credential.trust_domain.clone(),
        bundle_pem: TrustBundle::new(trust_domain, credential.roots)?.to_pem(),
        certificate_pem: svid.to_pem(),
        key_pem: key.to_pkcs8_pem().to_string(),
        admin: credential.name.clone(),
    };
    let context = context.unwrap_or_else(|| {
        if credential.name == init::FIRST_ADMIN {
            credential.trust_domain.clone()
        } else {
            format!("{}@{}", credential.name, credential.trust_domain)
        }
    });
    admins::add_context(&context_file, &context, &written)?;
    writeln!(
        std::io::stdout(),
        "admin    {}\ncontext  {context} in {} (good until {})",
        credential.name,
        context_file.display(),
        svid.validity().not_after(),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| {
        let roles: Vec<_> = Role::ALL.iter().map(Role::as_str).collect();
        format!("a role is one of {}", roles.join(", "))
    })
}
