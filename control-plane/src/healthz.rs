//! `healthz`: asks a control plane on this host whether it is ready.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use hauberk_control_plane::app::{self, Addresses};
use hauberk_control_plane::config::Settings;
use hauberk_control_plane::health;

use crate::Place;

#[derive(Args)]
pub(crate) struct HealthzArguments {
    #[command(flatten)]
    place: Place,
    /// Where the health listener is [default: where the control plane of this data directory listens]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<SocketAddr>,
}

pub(crate) async fn healthz(arguments: HealthzArguments) -> anyhow::Result<ExitCode> {
    let HealthzArguments { place, address } = arguments;
    let settings = Settings::of_process([("data-dir", place.data_dir)].into(), [], place.config.as_deref())?;
    let address = address.unwrap_or_else(|| {
        let bound = std::fs::read(settings.addresses_file()).ok();
        let bound = bound.and_then(|text| serde_json::from_slice::<Addresses>(&text).ok());
        app::reachable(bound.map_or(settings.health_listen, |addresses| addresses.health))
    });
    let (status, text) =
        health::probe(address).await.with_context(|| format!("nothing answers on {address}"))?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
