//! Gives up multipart uploads that nobody has added to for long: their clients are gone, and their parts take space.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use forebay_core::{ErrorKind, Mount, Result, UploadInfo};
use tokio::time::sleep;

use super::Mounts;
use crate::supervisor::Supervisor;

/// Time between two looks.
const LOOK: Duration = Duration::from_mins(10);

/// Starts the actor that does.
///
/// # Errors
/// As [`Supervisor::service`].
pub async fn start_reaper(mounts: &Arc<Mounts>, supervisor: &Supervisor) -> Result<()> {
    let mounts = Arc::clone(mounts);
    let service = move |mut stop: crate::supervisor::StopSignal| {
        let mounts = Arc::clone(&mounts);
        async move {
            loop {
                mounts.reap().await;
                tokio::select! {
                    () = sleep(LOOK) => {}
                    () = stop.requested() => return Ok(()),
                }
            }
        }
    };
    supervisor.service("Reaper", service).await
}

impl Mounts {
    /// Gives up what is older than each mount's limit.
    pub(super) async fn reap(&self) {
        let now = self.environment.clock.now();
        let mounts: Vec<_> = {
            let state = self.state();
            let of = |present: &super::Present| {
                let mounted = &present.mounted;
                (Arc::clone(mounted.handle()), mounted.config().limits.upload_age)
            };
            state.present.values().map(of).collect()
        };
        for (mount, age) in mounts {
            if let Err(error) = reap(&*mount, now - age).await {
                tracing::warn!(mount = mount.info().name, %error, "staged uploads are not looked through");
            }
        }
    }
}

async fn reap(mount: &dyn Mount, before: SystemTime) -> Result<()> {
    for upload in mount.uploads("").await?.iter().filter(|upload| upload.started < before) {
        match give_up(mount, upload, before).await {
            Ok(false) => {}
            Ok(true) => {
                let (mount, key) = (&mount.info().name, upload.key.as_str());
                tracing::warn!(
                    mount,
                    key,
                    upload = upload.upload.0,
                    "a multipart upload was given up by age"
                );
            }
            // It was completed or aborted meanwhile.
            Err(e) if e.kind() == ErrorKind::NoSuchUpload => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether it was time.
async fn give_up(mount: &dyn Mount, upload: &UploadInfo, before: SystemTime) -> Result<bool> {
    let parts = mount.parts(&upload.key, &upload.upload).await?;
    let is_old = parts.iter().all(|part| part.modified < before);
    if is_old {
        mount.abort_upload(&upload.key, &upload.upload).await?;
    }
    Ok(is_old)
}
