//! Operations: cancel, get and list what Execute began. Names are not guessable, and the peer must reach the instance.

use super::context::Context;
use super::execution::parse_name;
use super::instance::Caller;
use super::limits::LISTED_MAX;
use super::reply;
use super::socket::Line;
use crate::sched::OperationId;
use fulgurite_proto::google::longrunning::operations_server::Operations;
use fulgurite_proto::google::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest,
};
use std::sync::Arc;
use tonic::{Extensions, Request, Response, Status};

/// The service.
#[derive(Clone)]
pub(super) struct OperationsService {
    pub(super) context: Arc<Context>,
}

/// The same for what is not there and for what is somebody else's.
pub(super) fn unknown() -> Status {
    Status::not_found("there is no such operation: call Execute to retry")
}

/// The operation of a name, if it is there and the peer reaches its instance.
pub(super) fn find(context: &Context, call: &Extensions, name: &str) -> Result<OperationId, Status> {
    let operation = parse_name(name).ok_or_else(unknown)?;
    let tenant = context.engine.as_ref().and_then(|engine| engine.tenant(operation)).ok_or_else(unknown)?;
    let may_use = call.get::<Caller>().is_some_and(|caller| caller.covers(&tenant));
    if may_use { Ok(operation) } else { Err(unknown()) }
}

#[tonic::async_trait]
impl Operations for OperationsService {
    /// Lists those of the instance that `name` is, which may be followed by `/operations`.
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let name = request.get_ref().name.as_str();
        let name = name.strip_suffix("operations").unwrap_or(name).trim_end_matches('/');
        let instance = self.context.instances.open(request.extensions(), name)?;
        let listed = self.context.engine.as_ref().map(|engine| engine.list(&instance.name));
        let mut answer = ListOperationsResponse::default();
        for (facts, progress) in listed.unwrap_or_default().into_iter().take(LISTED_MAX) {
            answer.operations.push(reply::summary(&facts, &progress));
        }
        Ok(Response::new(answer))
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let operation = find(&self.context, request.extensions(), &request.get_ref().name)?;
        let watcher =
            self.context.engine.as_ref().and_then(|engine| engine.watch(Line::of_poller(), operation));
        let watcher = watcher.ok_or_else(unknown)?;
        let progress = watcher.progress.borrow().clone();
        Ok(Response::new(reply::operation(&watcher.facts, &progress)))
    }

    async fn delete_operation(&self, _: Request<DeleteOperationRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("operations are forgotten by themselves, some minutes after they are over"))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let operation = find(&self.context, request.extensions(), &request.get_ref().name)?;
        let found = self.context.engine.as_ref().is_some_and(|engine| engine.cancel(operation));
        if found { Ok(Response::new(())) } else { Err(unknown()) }
    }

    async fn wait_operation(&self, _: Request<WaitOperationRequest>) -> Result<Response<Operation>, Status> {
        Err(Status::unimplemented("use Execution.WaitExecution, which streams every change"))
    }
}
