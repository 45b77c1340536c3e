//! Who owns the tasks that HTTP/2 connections start.

use std::future::Future;

use tokio_util::task::TaskTracker;

/// Starts tasks for hyper in a [`TaskTracker`], which can be waited for. Such a task ends with its connection.
#[derive(Debug, Clone)]
pub(crate) struct Tasks(TaskTracker);

impl Tasks {
    /// Tasks that `tracker` owns.
    pub(crate) fn new(tracker: TaskTracker) -> Self {
        Self(tracker)
    }

    /// Starts one.
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0.spawn(task);
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        self.0.spawn(async move {
            task.await;
        });
    }
}
