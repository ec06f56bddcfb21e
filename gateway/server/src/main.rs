//! Forebay: one namespace over every store, served as S3, WebHDFS and FUSE.

mod admin;
mod cli;
mod config;
mod heap;
mod reload;
mod run;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    heap::give_back();
    rustls::crypto::ring::default_provider().install_default().expect("the first provider of this process");
    cli::main(cli::Arguments::parse())
}
