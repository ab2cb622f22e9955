//! `cargo run --example clusters`: a source and a destination to try things on by hand, until
//! Enter, the end of input, SIGINT or SIGTERM.

#[path = "mod.rs"]
mod support;

use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use support::workspace::Workspace;
use support::{Cluster, ClusterSpec};

const USAGE: &str = "usage: clusters [--source BROKERS] [--destination BROKERS] \
    [--source-version V] [--destination-version V] [--controllers N] [--until-signal] [--bench]";

struct Wanted {
    source: i32,
    destination: i32,
    source_version: Option<String>,
    destination_version: Option<String>,
    controllers: Option<i32>,
    until_signal: bool,
    bench: bool,
}

fn main() -> Result<()> {
    let wanted = Wanted::parse(std::env::args().skip(1))?;
    // From the first moment, so that an early Ctrl-C stops what has been started.
    let stop = stop_signal(wanted.until_signal)?;
    let workspace = Workspace::new("clusters")?;
    let versions = [&wanted.source_version, &wanted.destination_version];
    let named = [("source", wanted.source), ("destination", wanted.destination)];
    let mut clusters = Vec::new();
    for ((name, brokers), version) in named.into_iter().zip(versions) {
        if brokers > 0 {
            let cluster = wanted.spec(name, brokers, version.as_deref());
            clusters.push(cluster.start_in(&workspace)?);
            clusters.iter().rev().take(1).for_each(print);
        }
    }
    println!("ready; Enter or SIGTERM stops everything");
    let _any_reason = stop.recv();
    Ok(())
}

impl Wanted {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut wanted = Self {
            source: 1,
            destination: 3,
            source_version: None,
            destination_version: None,
            controllers: None,
            until_signal: false,
            bench: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().context(USAGE);
            match argument.as_str() {
                "--source" => wanted.source = value()?.parse()?,
                "--destination" => wanted.destination = value()?.parse()?,
                "--source-version" => wanted.source_version = Some(value()?),
                "--destination-version" => wanted.destination_version = Some(value()?),
                "--controllers" => wanted.controllers = Some(value()?.parse()?),
                "--until-signal" => wanted.until_signal = true,
                "--bench" => wanted.bench = true,
                _ => bail!(USAGE),
            }
        }
        Ok(wanted)
    }

    fn spec(&self, name: &str, brokers: i32, version: Option<&str>) -> ClusterSpec {
        let mut spec = ClusterSpec::new(name).brokers(brokers).fast_start(!self.bench);
        if let Some(version) = version {
            spec = spec.version(version);
        }
        match self.controllers {
            Some(count) => spec.separate_controllers(count),
            None => spec.combined(),
        }
    }
}

fn print(cluster: &Cluster) {
    println!("{} {}", cluster.name(), cluster.cluster_id());
    println!("  bootstrap   {}", cluster.bootstrap());
    println!("  controllers {}", cluster.controllers());
    for node in cluster.nodes() {
        let pid = node.pid().unwrap_or_default();
        println!("  node {:<4} pid {pid:<7} log {}", node.id, node.log_file.display());
    }
}

/// Something arrives when it is time to stop.
fn stop_signal(only_signals: bool) -> Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel();
    let signals = sender.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    thread::spawn(move || {
        runtime.block_on(async move {
            let mut term = signal(SignalKind::terminate())?;
            let mut int = signal(SignalKind::interrupt())?;
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            let _gone = signals.send(());
            anyhow::Ok(())
        })
    });
    if !only_signals {
        thread::spawn(move || {
            let mut line = String::new();
            let _end = std::io::stdin().read_line(&mut line);
            let _gone = sender.send(());
        });
    }
    Ok(receiver)
}
