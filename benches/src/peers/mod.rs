//! Herald beside servers that others use for the same, and beside the floor: each driven by the same load tool, one
//! after the other in the same run, each bound to CPU 0 with the clients on CPU 1.

mod course;
mod servers;
mod table;

use crate::{Options, parts::Folder};
use anyhow::{Result, bail};
use course::Measured;
use servers::{Kind, Server};

pub async fn run(options: &Options) -> Result<()> {
    let mut kinds = Kind::all(&options.peer)?;
    if !options.only.is_empty() {
        if let Some(unknown) = (options.only.iter())
            .find(|name| !kinds.iter().any(|kind| kind.name() == name.as_str()))
        {
            let names: Vec<_> = kinds.iter().map(Kind::name).collect();
            bail!("--only {unknown}: none of {}", names.join(", "));
        }
        kinds.retain(|kind| options.only.iter().any(|name| name == kind.name()));
    }
    let mut columns = Vec::new();
    for kind in &kinds {
        let mut column = table::Column::new(kind);
        for run in 1..=options.runs {
            eprintln!("peers: {}, run {run} of {}", kind.name(), options.runs);
            match measure(kind, options).await {
                Ok(measured) => {
                    eprintln!("  {measured:.2?}");
                    column.runs.push(measured);
                }
                // The others are measured all the same, and the table says what is not in it.
                Err(error) => {
                    eprintln!("  {error:#}");
                    column.why_not = Some(format!("{error:#}"));
                }
            }
        }
        columns.push(column);
    }
    table::print(options, &columns);
    Ok(())
}

async fn measure(kind: &Kind, options: &Options) -> Result<Measured> {
    let folder = Folder::new()?;
    let mut server = Server::start(kind, &folder).await?;
    let mut measured = course::main(&mut server, &folder, options.clients).await?;
    course::slow(&mut server, &folder, &mut measured).await?;
    Ok(measured)
}
