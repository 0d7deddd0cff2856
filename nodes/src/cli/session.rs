//! What a command works with: the settings, the client, and where results go.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;
use featureops_proto::{Collection, Name, v1};

use super::client::{Client, new_request_id};
use super::failure::Failure;
use super::page::{Page, Tone};
use super::render::{self, Named};
use super::settings::{Output, Settings};

/// One run of the program.
#[derive(Debug)]
pub struct Session {
    pub settings: Settings,
    pub client: Client,
    colour: bool,
}

/// Options of a write whose request has no dry run.
#[derive(Debug, Clone, Args)]
pub struct RequestArgs {
    /// Names this request: repeating it under the same id takes effect once [default: random].
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
}

/// Options of a write that the server can also only check.
#[derive(Debug, Clone, Args)]
pub struct WriteArgs {
    #[command(flatten)]
    pub request: RequestArgs,
    /// The server checks everything and changes nothing.
    #[arg(long, alias = "validate-only")]
    pub dry_run: bool,
}

impl WriteArgs {
    /// The id given, or a new one.
    pub fn id(&self) -> Result<String, Failure> {
        self.request.id()
    }
}

impl RequestArgs {
    /// The id given, or a new one.
    pub fn id(&self) -> Result<String, Failure> {
        match &self.request_id {
            Some(id) if id.is_empty() || id.len() > 128 => {
                Err(Failure::usage("--request-id has 1 to 128 bytes"))
            }
            Some(id) => Ok(id.clone()),
            None => new_request_id(),
        }
    }
}

impl Session {
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        let client = Client::new(&settings)?;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = std::io::stdout().is_terminal() && !no_color;
        Ok(Self { settings, client, colour })
    }

    /// `environments/{environment}`.
    #[must_use]
    pub fn parent(&self) -> String {
        format!("environments/{}", self.settings.environment)
    }

    /// The full name of a key in the environment; a full name stands for itself.
    pub fn name(&self, collection: Collection, key: &str) -> Result<String, Failure> {
        let name = if key.contains('/') {
            key.to_owned()
        } else {
            Name::format(&self.settings.environment, collection, key)
        };
        Name::parse(&name, collection).map_err(|error| Failure::usage(error.to_string()))?;
        Ok(name)
    }

    /// Prints a message in the form asked for; `table` writes the one for people.
    pub fn show<M: Named>(&self, message: &M, table: impl FnOnce(&mut Page)) -> Result<(), Failure> {
        let text = match self.settings.output {
            Output::Json => format!("{}\n", render::json(message)?),
            Output::Yaml => render::yaml(message)?,
            Output::Table => self.page(table),
        };
        print(&text)
    }

    /// Prints what is no message of the API in the form asked for.
    pub fn show_value(
        &self,
        value: &serde_json::Value,
        table: impl FnOnce(&mut Page),
    ) -> Result<(), Failure> {
        let text = match self.settings.output {
            Output::Json => format!("{value:#}\n"),
            Output::Yaml => render::yaml_text(value)?,
            Output::Table => self.page(table),
        };
        print(&text)
    }

    /// Prints one message of a stream: a line of JSON, a YAML document, or what `table` writes.
    pub fn show_next<M: Named>(&self, message: &M, table: impl FnOnce(&mut Page)) -> Result<(), Failure> {
        let text = match self.settings.output {
            Output::Json => format!("{}\n", render::json_line(message)?),
            Output::Yaml => format!("---\n{}", render::yaml(message)?),
            Output::Table => self.page(table),
        };
        print(&text)
    }

    fn page(&self, table: impl FnOnce(&mut Page)) -> String {
        let mut page = Page::new(self.colour).cutting(std::io::stdout().is_terminal());
        table(&mut page);
        page.into_text()
    }

    /// A word for people about what was done; machines asked for the message itself.
    pub fn say(&self, write: impl FnOnce(&mut Page)) -> Result<(), Failure> {
        match self.settings.output {
            Output::Table => print(&self.page(write)),
            Output::Json | Output::Yaml => Ok(()),
        }
    }

    /// Whether the screen can be redrawn.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.settings.output == Output::Table && std::io::stdout().is_terminal()
    }
}

/// Writes to standard output, whole.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// Progress, and what is not the result.
pub fn progress(text: &str) {
    // Nobody reading standard error is no reason to stop.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// What stands above is what would be.
pub fn rehearsed(page: &mut Page, request: &WriteArgs) {
    if request.dry_run {
        page.line(Tone::Warn, "a rehearsal: nothing was written");
    }
}

/// The words before a dry run's result.
#[must_use]
pub const fn verb(dry_run: bool, done: &'static str, would: &'static str) -> &'static str {
    if dry_run { would } else { done }
}

/// `human:anna`, or `-`; the audit and JSON say whether a token proved it.
#[must_use]
pub fn principal_text(principal: Option<&v1::Principal>) -> String {
    let Some(principal) = principal else { return "-".to_owned() };
    format!("{}:{}", render::word_of(principal.kind().as_str_name(), "KIND_"), principal.id)
}
