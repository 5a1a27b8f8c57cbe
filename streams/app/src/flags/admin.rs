//! The flag of the admin address.

use std::net::SocketAddr;

use clap::Args;

use super::parse::address;

/// The flag of the admin address.
#[derive(Debug, Clone, Args)]
pub struct AdminFlags {
    /// Address at which /healthz, /readyz and /metrics are served; off serves none of them
    #[arg(long, value_name = "ADDR|off", default_value = "127.0.0.1:9464", value_parser = admin)]
    admin: Admin,
}

#[derive(Debug, Clone, Copy)]
struct Admin(Option<SocketAddr>);

impl AdminFlags {
    /// Returns the address; `None` for `off`.
    pub fn address(&self) -> Option<SocketAddr> {
        self.admin.0
    }
}

fn admin(text: &str) -> Result<Admin, String> {
    match text {
        "off" => Ok(Admin(None)),
        _ => match address(text) {
            Ok(address) => Ok(Admin(Some(address))),
            Err(why) => Err(format!("{why}; off disables this address")),
        },
    }
}
