//! Capabilities: what an instance can do, for this peer.

use super::context::Context;
use super::instance::{Instance, function_number};
use super::limits::BATCH_BYTES_MAX;
use super::options::ActionCacheWriters;
use crate::action::DigestFunction;
use fulgurite_proto::build::bazel::semver::SemVer;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::capabilities_server::Capabilities;
use fulgurite_proto::reapi::compressor::Value as Compressor;
use fulgurite_proto::reapi::priority_capabilities::PriorityRange;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Priorities that requests may have.
pub(super) const PRIORITIES: std::ops::RangeInclusive<i32> = -1000..=1000;

/// The service.
#[derive(Clone)]
pub(super) struct CapabilitiesService {
    pub(super) context: Arc<Context>,
}

fn version(minor: i32) -> Option<SemVer> {
    Some(SemVer { major: 2, minor, ..SemVer::default() })
}

fn functions() -> Vec<i32> {
    DigestFunction::ALL.into_iter().map(function_number).collect()
}

impl CapabilitiesService {
    fn of(&self, instance: &Instance) -> reapi::ServerCapabilities {
        let range = PriorityRange { min_priority: *PRIORITIES.start(), max_priority: *PRIORITIES.end() };
        let cache = reapi::CacheCapabilities {
            digest_functions: functions(),
            action_cache_update_capabilities: Some(reapi::ActionCacheUpdateCapabilities {
                update_enabled: instance.writers == ActionCacheWriters::Clients,
            }),
            cache_priority_capabilities: Some(reapi::PriorityCapabilities { priorities: vec![range] }),
            max_batch_total_size_bytes: i64::try_from(BATCH_BYTES_MAX).unwrap_or(i64::MAX),
            symlink_absolute_path_strategy: reapi::symlink_absolute_path_strategy::Value::Allowed as i32,
            supported_compressors: vec![Compressor::Zstd as i32],
            supported_batch_update_compressors: vec![Compressor::Zstd as i32],
            max_cas_blob_size_bytes: i64::try_from(self.context.limits.blob_bytes_max).unwrap_or(i64::MAX),
            ..reapi::CacheCapabilities::default()
        };
        let execution = reapi::ExecutionCapabilities {
            digest_function: function_number(DigestFunction::Sha256),
            exec_enabled: instance.execution && self.context.engine.is_some(),
            execution_priority_capabilities: Some(reapi::PriorityCapabilities { priorities: vec![range] }),
            supported_node_properties: vec!["mtime".to_owned(), "unix_mode".to_owned()],
            digest_functions: functions(),
        };
        reapi::ServerCapabilities {
            cache_capabilities: Some(cache),
            // A cache alone says nothing of execution, so that clients do not take it for one.
            execution_capabilities: instance.execution.then_some(execution),
            deprecated_api_version: None,
            low_api_version: version(0),
            high_api_version: version(12),
        }
    }
}

#[tonic::async_trait]
impl Capabilities for CapabilitiesService {
    async fn get_capabilities(
        &self,
        request: Request<reapi::GetCapabilitiesRequest>,
    ) -> Result<Response<reapi::ServerCapabilities>, Status> {
        let instance = self.context.instances.open(request.extensions(), &request.get_ref().instance_name)?;
        Ok(Response::new(self.of(&instance)))
    }
}
