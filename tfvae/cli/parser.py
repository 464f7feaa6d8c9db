"""The parser of the command line: the arguments of a command's function become its flags."""

import argparse
import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
from jsonargparse import ArgumentParser

from tfvae import checks
from tfvae.cli import flags, parts, yaml_files

USAGE_ERROR = 2

# How a parser's message names a flag, or an entry of a file, whose value is wrong.
_WRONG_VALUE = re.compile(r'(?:argument (?P<flag>--)?|Parser key ")(?P<name>[\w.]+)"?:\s+(?P<text>must .*)', re.DOTALL)
_UNRECOGNIZED = re.compile(r"unrecognized arguments: (?P<words>.*)", re.DOTALL)
_NO_COMMAND = re.compile(
    r"""argument subcommand: invalid choice: ['"](?P<name>.*)['"] \(|expected "subcommand" to be one of"""
)
_REQUIRED = re.compile(r"the following arguments are required: (?P<names>.*)", re.DOTALL)
_UNKNOWN_NAME = re.compile(r"Subcommand '\w+' does not accept option '(?P<name>.*)'")
_NO_FILE = re.compile(r'Parser key "(?P<name>\w+)": File does not exist: (?P<path>.*)', re.DOTALL)
# In a message about an argument of a part: its name, what the argument may be, and the value that it has.
_KEY = re.compile(r'Parser key "([\w.]+)":')
_EXPECTED = re.compile(r"Expected an? (?:<class '(?P<type>\w+)'>|typing\.Literal\[(?P<names>.*?)\])")
_GIVEN = re.compile(r"(?:Given|Got) value: (.*)")
_TYPES = {"float": "a number", "int": "an integer", "bool": "true or false", "str": "text", "tuple": "a list"}
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")


class Parser(ArgumentParser):
    """A parser that reports an error in one line.

    Attributes:
        known_flags: the flags among which a similar one is found for one that does not exist.
        positional: the name of the argument that is not a flag.
        positional_default: its value if neither the command line nor a file gives it.
        commands: the commands of which one must be given.
    """

    known_flags: Sequence[str] = ()
    positional: str | None = None
    positional_default: Any = None
    commands: Sequence[str] = ()

    def get_defaults(self, *args: Any, **kwargs: Any) -> Any:
        """The defaults of all arguments."""
        defaults = super().get_defaults(*args, **kwargs)
        if self.positional is not None and defaults.get(self.positional) is None:
            defaults[self.positional] = self.positional_default
        return defaults

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Reads a file of arguments."""
        try:
            yaml_files.read(Path(str(cfg_path)), empty=True)
        except (OSError, ValueError) as error:
            self.error(f"`--config`: {error}")
        return super().parse_path(cfg_path, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the process with the message, in the words of the user rather than those of jsonargparse."""
        exit_with(_in_words_of_the_user(message, self), USAGE_ERROR)


def exit_with(message: str, code: int) -> NoReturn:
    """Ends the process with a message of one line."""
    print("tfvae: error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def exit_on_errors(code: int) -> Iterator[None]:
    """Turns an error that the user can correct, or a refused export, into a one-line message and an exit code."""
    try:
        yield
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        exit_with(str(error), code)


def with_underscores(words: Sequence[str]) -> list[str]:
    """The words of a command line, with `_` for each `-` within the name of a flag."""
    return [re.sub("^--[^=]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), word) for word in words]


def command_parser(
    command: Callable[..., None],
    groups: Mapping[str, Sequence[str]],
    *,
    skip: Sequence[str] = (),
    part_types: Mapping[str, type] | None = None,
) -> Parser:
    """A parser whose flags are the arguments of a function; the first one is positional, unless it is keyword-only.

    Args:
        command: the function. The annotations of its arguments say what the flags accept, and the descriptions under
            `Args:` in its docstring are their help.
        groups: the names of arguments under the title of each group of flags; the other flags are under "options".
        skip: arguments that are not flags.
        part_types: the class of each part, whose subclasses its flag accepts; None, without importing them, accepts any
            part, which `parts.check` then checks.
    """
    docstring = docstring_parser.parse(command.__doc__ or "")
    parameters = inspect.signature(command).parameters
    # Without the types of the parts it could not print what they take, so then --print_config is a flag that does
    # nothing: whoever sees it makes the parser again, with them.
    light = part_types is None and any(name in parts.PARTS for name in parameters)
    parser = Parser(description=docstring.short_description, print_config=None if light else "--print_config")
    parser.add_argument("--config", action="config", help="a YAML file of the arguments")
    if light:
        parser.add_argument("--print_config", nargs="?", const="", help="print all arguments as YAML, and exit")
    containers: dict[str, Any] = {}
    for title, names in groups.items():
        containers |= dict.fromkeys(names, parser.add_argument_group(title))
    for documented in docstring.params:
        name, description = documented.arg_name, documented.description or ""
        if name in skip:
            continue
        container, parameter = containers.get(name, parser), parameters[name]
        if name in parts.PARTS:
            _add_part(container, name, description, part_types)
            continue
        kind = flags.of(parameter.annotation)
        keywords: dict[str, Any] = {"type": kind, "help": description}
        if kind is flags.CALLBACKS:
            keywords |= {"type": list[dict[str, Any] | str] | None, "metavar": "NAME"}
        if kind is flags.PATHS:
            keywords |= {"type": str, "nargs": "*"}
        if kind is flags.SWITCH:
            # Without a value it means true.
            keywords |= {"nargs": "?", "const": True, "metavar": "true|false"}
        if parameter.default is parameter.empty:
            container.add_argument(f"--{name}", required=True, **keywords)
        elif parameter.kind is parameter.KEYWORD_ONLY or name != next(iter(parameters)):
            container.add_argument(f"--{name}", default=parameter.default, **keywords)
        else:
            # argparse would set a default after a file of `--config` has been read, whose entry would be lost.
            shown = parameter.default if isinstance(parameter.default, str) else " ".join(parameter.default)
            keywords["help"] += f" (default: {shown})"
            keywords.setdefault("nargs", "?")
            container.add_argument(name, default=argparse.SUPPRESS, **keywords)
    if part_types is not None:
        parser.set_defaults(parts.DEFAULTS)
    first = next(iter(parameters.values()))
    if first.kind is not first.KEYWORD_ONLY and first.default is not first.empty:
        default = first.default
        parser.positional, parser.positional_default = first.name, list(default) if type(default) is tuple else default
    parser.known_flags = [name for name in parameters if name not in (*skip, parser.positional)]
    return parser


def _add_part(container: Any, name: str, description: str, part_types: Mapping[str, type] | None) -> None:
    if part_types is not None:
        container.add_argument(f"--{name}", type=part_types[name], help=description)
        return
    container.add_argument(
        f"--{name}",
        # Not a class or a dictionary, for which jsonargparse would import what a file names.
        type=flags.Kind("a name, or class_path with init_args", parts.read),
        default=argparse.SUPPRESS,
        metavar="NAME",
        help=f"{description.removesuffix('.')}: {parts.described(name)}",
    )


def _in_words_of_the_user(message: str, parser: Parser) -> str:
    """What a message of jsonargparse says, without its internals."""
    if wrong := _WRONG_VALUE.fullmatch(message):
        return f"`--{wrong['name']}` {wrong['text']}"
    if unrecognized := _UNRECOGNIZED.fullmatch(message):
        word = unrecognized["words"].split()[0].partition("=")[0]
        if word == f"--{parser.positional}":
            return f"`{parser.positional}` must be given without `{word}`. Received: {unrecognized['words']}"
        flag = word.removeprefix("--")
        return message + (checks.did_you_mean(flag, parser.known_flags, "--") if flag != word else "")
    if unknown := _UNKNOWN_NAME.fullmatch(message):
        hint = checks.did_you_mean(unknown["name"], parser.known_flags)
        return f"`--config` must be a file of arguments of the command. Received: {unknown['name']}{hint}"
    if no_command := _NO_COMMAND.match(message):
        expected = f"The command must be one of {', '.join(parser.commands)}"
        if (name := no_command["name"]) is None:
            return f"{expected}; see `tfvae --help`"
        return f"{expected}{checks.did_you_mean(name, parser.commands)}. Received: {name}"
    if required := _REQUIRED.fullmatch(message):
        names = (name.rpartition(".")[2] for name in required["names"].split(", "))
        return f"{' and '.join(f'`--{name}`' for name in names)} must be given"
    if missing := _NO_FILE.fullmatch(message):
        return f"`--{missing['name']}` must be an existing file. Received: {missing['path']}"
    if denied := _DENIED.search(message):
        return f"The module of a class that is not of tfvae must be named by `--allow_import`. Received: {denied[1]}"
    keys, given, types = _KEY.findall(message), _GIVEN.findall(message), list(_EXPECTED.finditer(message))
    if keys and given and types:
        expected = ", or ".join(each["names"] or _TYPES.get(each["type"], each["type"]) for each in types)
        return f"`{keys[-1]}` must be {expected}. Received: {given[-1]}"
    return _KEY.sub(r"`--\1`:", message)
