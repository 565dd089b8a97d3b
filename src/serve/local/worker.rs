//! The worker that a request of the local API asks for: properties, as any client of REAPI would send them, and marks
//! on its own files.

use super::request::RequestError;
use crate::action::ExecPath;
use fulgurite_proto::v1;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest key that a caller may declare: a digest, and some words beside it.
const KEY_BYTES_MAX: usize = 1024;

/// What a request says of a worker.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AskedWorker {
    /// For the action's platform.
    pub(super) properties: Vec<(String, String)>,
    /// Its own files, or directories of them, where the action sees them.
    pub(super) tools: Vec<ExecPath>,
}

impl AskedWorker {
    /// Reads it; `mnemonic` is the action's.
    pub(super) fn decode(
        sent: Option<v1::Worker>,
        mnemonic: &str,
        exec_root: &Path,
    ) -> Result<AskedWorker, RequestError> {
        let Some(worker) = sent else { return Ok(AskedWorker::default()) };
        let value = |text: String| RequestError::Value(text);
        let (protocol, is_multiplex) = match v1::WorkerProtocol::try_from(worker.protocol) {
            Ok(v1::WorkerProtocol::Proto) => ("proto", false),
            Ok(v1::WorkerProtocol::Json) => ("json", false),
            Ok(v1::WorkerProtocol::MultiplexProto) => ("proto", true),
            Ok(v1::WorkerProtocol::MultiplexJson) => ("json", true),
            Ok(v1::WorkerProtocol::Buck2) => ("buck2", false),
            Ok(v1::WorkerProtocol::Unspecified) | Err(_) => {
                return Err(value(format!("worker protocol {} is unknown", worker.protocol)));
            }
        };
        if worker.key.len() > KEY_BYTES_MAX {
            return Err(value(format!("a worker's key has at most {KEY_BYTES_MAX} bytes")));
        }
        let mut properties = vec![("persistent-workers", "true".to_owned())];
        let mut put = |name, text: String, is_said: bool| properties.extend(is_said.then_some((name, text)));
        put("persistentWorkerProtocol", protocol.to_owned(), true);
        put("supports-multiplex-workers", "1".to_owned(), is_multiplex);
        put("supports-multiplex-sandboxing", "1".to_owned(), is_multiplex);
        put("persistentWorkerKey", worker.key.clone(), !worker.key.is_empty());
        put("fulgurite-worker-startup", worker.startup_arguments.to_string(), worker.startup_arguments > 0);
        put("supports-worker-cancellation", "1".to_owned(), worker.cancels);
        put("worker-key-mnemonic", mnemonic.to_owned(), !mnemonic.is_empty());
        match v1::WorkerView::try_from(worker.view) {
            Ok(v1::WorkerView::Unspecified) => {}
            Ok(v1::WorkerView::Own) => put("fulgurite-worker-view", "own".to_owned(), true),
            Ok(v1::WorkerView::Shared) => put("fulgurite-worker-view", "shared".to_owned(), true),
            Err(_) => return Err(value(format!("worker view {} is unknown", worker.view))),
        }
        let tool = |path: Vec<u8>| {
            let parsed = ExecPath::new_under(OsStr::from_bytes(&path), exec_root);
            parsed.map_err(|error| value(format!("worker tool: {error}")))
        };
        Ok(AskedWorker {
            properties: properties.into_iter().map(|(name, text)| (name.to_owned(), text)).collect(),
            tools: worker.tools.into_iter().map(tool).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::wanted::wanted;
    use crate::worker::wire::Protocol;

    fn ask(worker: v1::Worker) -> Result<AskedWorker, RequestError> {
        AskedWorker::decode(Some(worker), "Javac", Path::new("/root"))
    }

    #[test]
    fn what_is_asked_for_is_what_the_pool_reads() {
        let worker = v1::Worker {
            protocol: v1::WorkerProtocol::MultiplexJson as i32,
            tools: vec![b"/root/tools".to_vec(), b"lib".to_vec()],
            key: "k".to_owned(),
            cancels: true,
            ..v1::Worker::default()
        };
        let asked = ask(worker).unwrap();
        assert_eq!(asked.tools, [ExecPath::new("tools").unwrap(), ExecPath::new("lib").unwrap()]);
        let read = wanted(&asked.properties).unwrap().unwrap();
        assert_eq!((read.protocol, read.multiplex, read.cancels), (Protocol::Json, true, true));
        assert_eq!((read.declared.as_deref(), read.mnemonic.as_deref()), (Some("k"), Some("Javac")));
        let buck2 = v1::Worker {
            protocol: v1::WorkerProtocol::Buck2 as i32,
            startup_arguments: 3,
            view: v1::WorkerView::Shared as i32,
            ..v1::Worker::default()
        };
        let read = wanted(&ask(buck2).unwrap().properties).unwrap().unwrap();
        assert_eq!((read.protocol, read.startup, read.shares), (Protocol::Buck2, Some(3), Some(true)));
        assert!(read.declared.is_none());
    }

    #[test]
    fn what_nobody_knows_is_refused() {
        let proto = v1::Worker { protocol: v1::WorkerProtocol::Proto as i32, ..v1::Worker::default() };
        assert!(ask(proto.clone()).is_ok());
        assert!(ask(v1::Worker::default()).is_err());
        assert!(ask(v1::Worker { protocol: 99, ..proto.clone() }).is_err());
        assert!(ask(v1::Worker { view: 99, ..proto.clone() }).is_err());
        assert!(ask(v1::Worker { tools: vec![b"../x".to_vec()], ..proto.clone() }).is_err());
        assert!(ask(v1::Worker { key: "k".repeat(2000), ..proto }).is_err());
    }
}
