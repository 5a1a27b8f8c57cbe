//! The flags of a cluster, named as timely names them: the processes of the cluster, and the index of this process.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_streams::cluster::Cluster;

use super::{
    parse::{duration, host_and_port},
    text_file,
};
use crate::process::Failure;

/// Maximum number of processes of a cluster.
const MOST_PROCESSES: u64 = 1024;

/// Timely's default port of process 0. Process N has this port plus N.
const FIRST_PORT: u64 = 2101;

/// The flags of an application that runs in several processes.
#[derive(Debug, Args)]
pub struct ClusterFlags {
    /// Number of processes of the cluster [default: number of hosts]
    #[arg(short = 'n', long, value_name = "N")]
    #[arg(value_parser = Ranged::<u64>::new().range(1..=MOST_PROCESSES))]
    processes: Option<u64>,
    /// Index of this process, from 0
    #[arg(short = 'p', long, value_name = "INDEX", default_value_t = 0)]
    process: u64,
    /// A file that lists the host:port of each process, one per line
    #[arg(short = 'h', long, value_name = "FILE", alias = "hostfile")]
    hosts_file: Option<PathBuf>,
    /// The host:port of each process, separated by commas
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        conflicts_with = "hosts_file"
    )]
    hosts: Vec<String>,
    /// Maximum time that a process waits until all other processes are connected
    #[arg(long, default_value = "60s", value_parser = duration)]
    join_timeout: Duration,
    /// A file with a secret that all processes of the cluster share
    #[arg(long, value_name = "FILE")]
    cluster_token_file: Option<PathBuf>,
}

impl ClusterFlags {
    /// Returns the cluster; `None` for a single process.
    pub fn cluster(&self) -> Result<Option<Cluster>, Failure> {
        let (flag, hosts) = self.hosts()?;
        let processes = self.processes.unwrap_or((hosts.len() as u64).max(1));
        if self.process >= processes {
            let why = match processes {
                1 => "the index of the only process is 0".to_owned(),
                _ => format!(
                    "the indices of {processes} processes are 0 to {}",
                    processes - 1
                ),
            };
            return Err(Failure::usage("--process", why));
        }
        if processes == 1 && hosts.len() <= 1 {
            return Ok(None);
        }
        let hosts = match hosts.len() as u64 {
            0 => (0..processes)
                .map(|index| format!("localhost:{}", FIRST_PORT + index))
                .collect(),
            listed if listed == processes => hosts,
            listed => {
                let why = format!("{flag} lists {listed} hosts for {processes} processes");
                return Err(Failure::usage("--processes", why));
            }
        };
        let mut seen = BTreeSet::new();
        for host in &hosts {
            if host_and_port(host).is_none() {
                let why = format!(
                    "'{host}' is not HOST:PORT, for example dataflow-0:2101 or [fd00::1]:2101"
                );
                return Err(Failure::usage(flag, why));
            }
            if !seen.insert(host) {
                return Err(Failure::usage(flag, format!("{host} is listed twice")));
            }
        }
        Ok(Some(Cluster {
            hosts,
            index: self.process as usize,
            join_timeout: self.join_timeout,
            token: self.token()?,
        }))
    }

    /// Returns the name of the flag that lists the hosts, and the hosts.
    fn hosts(&self) -> Result<(&'static str, Vec<String>), Failure> {
        let Some(file) = &self.hosts_file else {
            let hosts = self.hosts.iter().map(|host| host.trim().to_owned());
            return Ok(("--hosts", hosts.collect()));
        };
        let text = text_file::read("--hosts-file", file)?;
        let lines = text.lines().map(str::trim);
        let hosts = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let hosts: Vec<String> = hosts.map(str::to_owned).collect();
        if hosts.is_empty() {
            // An empty file is an error. If this process ran alone instead, so would every other process of the
            // cluster, and each would count all events.
            let why = format!("{} lists no hosts", file.display());
            return Err(Failure::usage("--hosts-file", why));
        }
        Ok(("--hosts-file", hosts))
    }

    fn token(&self) -> Result<String, Failure> {
        let Some(file) = &self.cluster_token_file else {
            return Ok(String::new());
        };
        text_file::secret("--cluster-token-file", file)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        flags: ClusterFlags,
    }

    fn cluster(arguments: &str) -> Result<Option<Cluster>, String> {
        let line = Line::try_parse_from(["dataflow"].into_iter().chain(arguments.split(' ')));
        line.unwrap()
            .flags
            .cluster()
            .map_err(|failure| failure.message)
    }

    #[test]
    fn one_process_is_not_a_cluster() {
        assert_eq!(cluster("-n 1"), Ok(None));
        assert_eq!(cluster("--hosts a:1"), Ok(None));
    }

    #[test]
    fn hosts_are_the_default_of_processes() {
        let found = cluster("-p 1 --hosts a:1,b:2").unwrap().unwrap();
        assert_eq!(
            (found.index, found.hosts),
            (1, vec!["a:1".into(), "b:2".into()])
        );
    }

    #[test]
    fn an_ipv6_address_has_brackets() {
        let found = cluster("--hosts [::1]:2101,[fd00::2]:2101")
            .unwrap()
            .unwrap();
        assert_eq!(found.hosts, ["[::1]:2101", "[fd00::2]:2101"]);
    }

    #[test]
    fn without_hosts_the_processes_are_on_this_host() {
        let found = cluster("-n 2 -p 0").unwrap().unwrap();
        assert_eq!(found.hosts, ["localhost:2101", "localhost:2102"]);
    }

    #[test]
    fn an_error_names_its_flag() {
        for (arguments, named) in [
            (
                "-n 2 -p 2",
                "--process: the indices of 2 processes are 0 to 1",
            ),
            ("-p 1", "--process: the index of the only process"),
            (
                "-n 3 --hosts a:1,b:2",
                "--processes: --hosts lists 2 hosts for 3",
            ),
            (
                "-n 1 --hosts a:1,b:2",
                "--processes: --hosts lists 2 hosts for 1",
            ),
            ("-n 2 --hosts a:1,b", "--hosts: 'b' is not HOST:PORT"),
            ("-n 2 --hosts a:1,b:0", "--hosts: 'b:0' is not HOST:PORT"),
            ("-n 2 --hosts a:1,a:1", "--hosts: a:1 is listed twice"),
            ("--hosts a:1,::1", "--hosts: '::1' is not HOST:PORT"),
            ("--hosts a:1,fd00::1:2101", "--hosts: 'fd00::1:2101' is"),
            ("--hosts a:1,http://b:1", "--hosts: 'http://b:1' is not"),
            ("-n 2 -h /no/such/file", "--hosts-file: /no/such/file"),
            (
                "-n 2 -h /dev/null",
                "--hosts-file: /dev/null lists no hosts",
            ),
            ("-h /dev/null", "--hosts-file: /dev/null lists no hosts"),
            ("-h /dev/zero", "--hosts-file: /dev/zero: is longer than"),
            (
                "-n 2 --cluster-token-file /no/such",
                "--cluster-token-file: /no/such",
            ),
        ] {
            let error = cluster(arguments).unwrap_err();
            assert!(error.starts_with(named), "{error}");
        }
    }
}
