//! The command line: one file per group of commands.

mod cached;
mod check;
mod client;
mod copy;
mod entries;
mod load;
mod mount;
mod pending;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::telemetry::LogFormat;

const EXAMPLES: &str = "\
Examples:
  forebay                                        serve ./mounts.yaml
  forebay check --config /etc/forebay/mounts.yaml
  forebay cp file:./data.csv /local/data.csv     upload through a running gateway
  forebay ls /local
  forebay mount s3://bucket/prefix ./mnt         one store, one directory, no file to write
";

/// One namespace over every store, served as S3, WebHDFS and a file system.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    log: LogArguments,
}

#[derive(Debug, clap::Args)]
struct LogArguments {
    /// What to log: a level, or levels per module such as `info,forebay_s3=debug`.
    #[arg(long, global = true, default_value = "info", env = "FOREBAY_LOG")]
    log: String,
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a configuration (the default command).
    Serve(serve::ServeArguments),
    /// Check a configuration, reach every store in it and say what each can do.
    #[command(after_help = check::HELP)]
    Check(check::CheckArguments),
    /// Mount one store at a directory, without a configuration file; or change the mounts of a running gateway.
    #[command(
        after_help = "Examples:\n  forebay mount add /logs s3://logs --option region=eu-west-1\n  forebay mount s3://bucket/prefix ./mnt\n  forebay mount az://container ./mnt --option endpoint=https://account.blob.core.windows.net --option account_name=account --option account_key=…\n  forebay mount --read-only --endpoint http://127.0.0.1:9000 s3://data ./mnt\n\nCredentials of s3:// come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN where they are not told."
    )]
    Mount(mount::MountArguments),
    /// List the mounts of a running gateway and their states.
    Mounts(client::Connection),
    /// Make a running gateway read its configuration file again.
    Reload(client::Connection),
    /// Show what was acknowledged and is not at its store yet.
    Status(client::Connection),
    /// Wait until all that was acknowledged at and below a path is at its store.
    Flush(pending::FlushArguments),
    /// List a directory.
    Ls(entries::LsArguments),
    /// Show what is known of a file or directory.
    Stat(entries::PathArguments),
    /// Write a file to standard output.
    Cat(entries::PathArguments),
    /// Copy a file, or with -r a tree; write local files as `file:PATH` and standard input or output as `-`.
    #[command(after_help = copy::HELP)]
    Cp(copy::CpArguments),
    /// Move a file or a tree, across mounts too: each source is removed once its copy was compared with it.
    Mv(copy::MvArguments),
    /// Remove a file, or with -r a directory.
    Rm(entries::RmArguments),
    /// Bring a directory or file into the cache; the gateway does it, over restarts too.
    Load(load::LoadArguments),
    /// Compare what is known of a directory or file with its store; the gateway does it, over restarts too.
    Sync(load::SyncArguments),
    /// Show the loads and syncs of a running gateway, or cancel one.
    Jobs(load::JobsArguments),
    /// Keep what lies at and below a path in the cache: admitted at once, evicted last.
    Pin(entries::PathArguments),
    /// Take `pin` back.
    Unpin(entries::PathArguments),
    /// Treat a directory as a data set that is read whole again and again.
    Epoch(cached::EpochArguments),
    /// Do not serve cached content that is older.
    Ttl(cached::TtlArguments),
    /// Bound what a path takes of the disk tier.
    Quota(cached::QuotaArguments),
    /// Say what is evicted before all else, or after.
    Priority(cached::PriorityArguments),
    /// Say how long what the store said of a path is trusted.
    Revalidate(cached::RevalidateArguments),
    /// Show the rules that `pin`, `epoch`, `ttl`, `quota`, `priority` and `revalidate` made, and those of the configuration.
    Rules(client::Connection),
    /// Drop what is cached at and below a path.
    Free(entries::PathArguments),
    /// Say how a file is served: mount, version, rule, what of it is cached, what a read would do.
    Explain(entries::PathArguments),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The configuration file.
    #[arg(long, short, default_value = "mounts.yaml")]
    config: PathBuf,
}

/// Runs a command; errors go to standard error, each cause after a colon.
pub(crate) fn main(arguments: Arguments) -> ExitCode {
    match run(arguments) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("forebay: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let log = arguments.log;
    let command = arguments.command.unwrap_or_else(|| Command::Serve(serve::ServeArguments::default()));
    match command {
        Command::Serve(arguments) => serve::serve(&arguments, &log),
        Command::Mount(arguments) => mount::mount(arguments, &log),
        Command::Check(arguments) => check::check(&arguments, &log),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "forebay", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Mounts(connection) => client::block_on(client::mounts(connection)),
        Command::Reload(connection) => client::block_on(mount::reload(connection)),
        Command::Status(connection) => client::block_on(pending::status(connection)),
        Command::Flush(arguments) => client::block_on(pending::flush(arguments)),
        Command::Ls(arguments) => client::block_on(entries::ls(arguments)),
        Command::Stat(arguments) => client::block_on(entries::stat(arguments)),
        Command::Cat(arguments) => client::block_on(copy::cat(arguments)),
        Command::Cp(arguments) => client::block_on(copy::cp(arguments)),
        Command::Mv(arguments) => client::block_on(copy::mv(arguments)),
        Command::Load(arguments) => client::block_on(load::load(arguments)),
        Command::Sync(arguments) => client::block_on(load::sync(arguments)),
        Command::Jobs(arguments) => client::block_on(load::jobs(arguments)),
        Command::Pin(arguments) => client::block_on(cached::pin(arguments, true)),
        Command::Unpin(arguments) => client::block_on(cached::pin(arguments, false)),
        Command::Epoch(arguments) => client::block_on(cached::epoch(arguments)),
        Command::Ttl(arguments) => client::block_on(cached::ttl(arguments)),
        Command::Quota(arguments) => client::block_on(cached::quota(arguments)),
        Command::Priority(arguments) => client::block_on(cached::priority(arguments)),
        Command::Revalidate(arguments) => client::block_on(cached::revalidate(arguments)),
        Command::Rules(connection) => client::block_on(cached::rules(connection)),
        Command::Free(arguments) => client::block_on(cached::free(arguments)),
        Command::Explain(arguments) => client::block_on(cached::explain(arguments)),
        Command::Rm(arguments) => client::block_on(entries::rm(arguments)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
