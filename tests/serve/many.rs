//! A thousand clients at once, each with a connection of its own.

use crate::Alone;
use crate::action::Order;
use crate::client::named;
use crate::daemon::{Home, PATIENCE};
use fulgurite_proto::google::longrunning::operation;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use fulgurite_proto::reapi::execution_client::ExecutionClient;
use prost::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::HashSet;
use tonic::transport::{Channel, Endpoint};

pub const ALONE: &[Alone] = &[("many::a_thousand_clients", a_thousand)];

const CLIENTS: usize = 1000;

/// What one client does: uploads an action of its own, and one that it shares with nineteen others, and has both run.
async fn client(channel: Channel, own: Order, shared: Order) -> Result<String, String> {
    let mut hashes = Vec::new();
    for order in [own, shared] {
        let blobs = order.blobs();
        let action = named(blobs.last().unwrap());
        let requests = blobs.into_iter().map(|bytes| reapi::batch_update_blobs_request::Request {
            digest: Some(named(&bytes)),
            data: bytes.into(),
            compressor: 0,
        });
        let request = reapi::BatchUpdateBlobsRequest { requests: requests.collect(), ..Default::default() };
        let mut storage = ContentAddressableStorageClient::new(channel.clone());
        storage.batch_update_blobs(request).await.map_err(|status| status.to_string())?;
        let request = reapi::ExecuteRequest { action_digest: Some(action), ..Default::default() };
        let mut execution = ExecutionClient::new(channel.clone());
        let mut stream = execution.execute(request).await.map_err(|status| status.to_string())?.into_inner();
        let mut last = None;
        while let Some(message) = stream.message().await.map_err(|status| status.to_string())? {
            last = Some(message);
        }
        let Some(operation::Result::Response(any)) = last.and_then(|last| last.result) else {
            return Err("no response".to_owned());
        };
        let response =
            reapi::ExecuteResponse::decode(any.value.as_slice()).map_err(|error| error.to_string())?;
        let status = response.status.unwrap_or_default();
        let result = response.result.unwrap_or_default();
        if status.code != 0 || result.exit_code != 0 {
            return Err(format!("{status:?}, {result:?}"));
        }
        hashes.push(result.stdout_digest.unwrap_or_default().hash);
    }
    Ok(hashes.swap_remove(0))
}

fn a_thousand() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(8192, |maximum| maximum.min(8192));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).unwrap();
    if wanted < 2 * CLIENTS as u64 + 100 {
        return crate::skip("many::a_thousand_clients", "too few descriptors are allowed");
    }
    let home = Home::new();
    let daemon = home.start(&["--slots", "4"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let socket = format!("unix://{}", home.path("socket").display());
    runtime.block_on(async {
        let mut channels = Vec::new();
        for _ in 0..CLIENTS {
            channels.push(Endpoint::new(socket.clone()).unwrap().connect().await.unwrap());
        }
        // All are connected; now all ask.
        let shared: Vec<Order> = (0..50).map(|number| Order::sh(&format!("echo shared {number}"))).collect();
        let mut running = tokio::task::JoinSet::new();
        for (number, channel) in channels.into_iter().enumerate() {
            let own = Order::sh(&format!("echo {number}"));
            running.spawn(client(channel, own, shared[number % shared.len()].clone()));
        }
        let mut answers = HashSet::new();
        while let Some(ended) = tokio::time::timeout(10 * PATIENCE, running.join_next()).await.unwrap() {
            answers.insert(ended.unwrap().unwrap());
        }
        assert_eq!(answers.len(), CLIENTS, "somebody was given another's output");
    });
    drop(runtime);
    daemon.end(&home);
    home.check_blobs();
}
