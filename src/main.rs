//! The `sluice` binary: reads the command line and calls the library.

use std::io::Write as _;

use clap::Parser as _;
use sluice::cli::{Cli, Command, crd_yaml};

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd => Ok(std::io::stdout().write_all(crd_yaml()?.as_bytes())?),
    }
}
