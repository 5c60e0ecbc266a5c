//! The `fusewire` program: arguments, settings, log, and the service.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use fusewire::{
    service,
    settings::{self, Command, Settings},
    shutdown::{Shutdown, Signals},
    telemetry,
};
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let settings = match settings::from_process() {
        Ok(Command::Serve(loaded)) => loaded.settings,
        Ok(Command::Print(text)) => return print(&text),
        Err(fault) => return fail(&fault.to_string()),
    };
    // Before anything speaks TLS: the first handshake without it would panic.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return fail("cannot install the TLS provider");
    }
    telemetry::start(&settings.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => return fail(&fault.to_string()),
    };
    let code = runtime.block_on(serve(settings));
    // What is left of connections that would not end is left behind.
    runtime.shutdown_background();
    code
}

async fn serve(settings: Settings) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(fault) => return fail(&fault.to_string()),
    };
    info!(version = env!("CARGO_PKG_VERSION"), "fusewire starts");
    let shutdown = Shutdown::new();
    let ending = async {
        signals.trigger(&shutdown).await;
        let second = signals.second_signal().await;
        warn!("a second signal: ending at once");
        second
    };
    tokio::select! {
        served = service::run(settings, shutdown.clone()) => match served {
            Ok(()) => {
                info!("fusewire ended");
                ExitCode::SUCCESS
            }
            Err(fault) => {
                error!(error = %fault, "fusewire cannot go on");
                ExitCode::FAILURE
            }
        },
        second = ending => std::process::exit(second.exit_code()),
    }
}

fn print(text: &str) -> ExitCode {
    // A reader that went away is no failure of ours.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
    ExitCode::SUCCESS
}

fn fail(reason: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "fusewire: {reason}");
    ExitCode::FAILURE
}
