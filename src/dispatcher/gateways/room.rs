//! Whether a region's other gateways could take the clients of one.

use super::{GatewayError, is_no_standalone};
use crate::registry::GatewayLease;

/// A gateway that nobody knows, or that is being drained already, is none to object to.
pub(super) fn can_be_spared(id: &str, live: &[GatewayLease]) -> Result<(), GatewayError> {
    let own = live.iter().find(|lease| lease.owner.gateway.as_str() == id);
    let Some(own) = own.filter(|lease| !lease.info.draining) else {
        return Ok(());
    };
    is_no_standalone(own)?;
    let region = &own.info.region;
    let stays = |lease: &&GatewayLease| {
        lease.owner.gateway != own.owner.gateway
            && !lease.info.draining
            && lease.info.region == *region
    };
    let others: Vec<&GatewayLease> = live.iter().filter(stays).collect();
    let (id, region) = (id.to_owned(), region.to_string());
    let clients = own.info.connections;
    // Who is being drained sends its clients there too.
    let leave = |lease: &&GatewayLease| lease.info.draining && lease.info.region == own.info.region;
    let leaving = live.iter().filter(leave);
    let leaving: u64 = leaving.map(|lease| lease.info.connections).sum();
    if others.is_empty() {
        return Err(GatewayError::Only {
            id,
            region,
            clients,
            leaving,
        });
    }
    let room = others.iter().map(|lease| lease.info.room());
    let room = room.fold(0, u64::saturating_add);
    match room < (clients + leaving).max(1) {
        true => Err(GatewayError::NoRoom {
            id,
            region,
            clients,
            leaving,
            room,
        }),
        false => Ok(()),
    }
}
