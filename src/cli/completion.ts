// SPDX-License-Identifier: Apache-2.0
//
// Shell completion, made from the command's own options so that it cannot fall behind them.

import type { Command, Option } from 'commander';
import { UsageError } from './manifest-errors.js';

/** The script for `eval "$(COMMAND --completion SHELL)"`. */
export function completion(shell: string, command: Command): string {
  if (shell === 'bash') return bash(command);
  if (shell === 'zsh') return zsh(command);
  throw new UsageError(`--completion ${shell}: expected bash or zsh`);
}

function flagsOf(option: Option): string[] {
  return [option.short, option.long].filter((flag) => flag !== undefined && flag !== null);
}

function bash(command: Command): string {
  const name = command.name();
  const words = [...command.options.flatMap(flagsOf), '-h', '--help'].join(' ');
  const id = `_${name.replaceAll('-', '_')}`;
  return `# ${name}: completion for bash. In ~/.bashrc: eval "$(${name} --completion bash)"
${id}() {
  local word=\${COMP_WORDS[COMP_CWORD]}
  case \${COMP_WORDS[COMP_CWORD - 1]}:$word in
    --completion:*) COMPREPLY=($(compgen -W 'bash zsh' -- "$word")) ;;
    --chroot:*|--libdir:*) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$word")) ;;
    *:-*) COMPREPLY=($(compgen -W '${words}' -- "$word")) ;;
    *) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}
complete -F ${id} ${name}
`;
}

function zsh(command: Command): string {
  const name = command.name();
  const quote = (text: string) => text.replace(/[[\]\\:']/g, (c) => (c === "'" ? "'\\''" : `\\${c}`));
  const specs = command.options.map((option) => {
    const flags = flagsOf(option);
    const name = option.attributeName();
    const values = name === 'completion' ? '(bash zsh)' : /dir$|chroot/.test(name) ? '_files -/' : '_files';
    const value = option.required || option.optional ? `:${name}:${values}` : '';
    const rest = `[${quote(option.description.replaceAll('\n', ' '))}]${value}'`;
    // A repeatable option may come again; of the others each name excludes itself and its twin.
    const again = option.parseArg !== undefined ? '*' : `(${flags.join(' ')})`;
    return `  '${again}'${flags.length > 1 ? `{${flags.join(',')}}'` : `'${flags[0]}`}${rest} \\`;
  });
  return `#compdef ${name}
# ${name}: completion for zsh. In ~/.zshrc: eval "$(${name} --completion zsh)"
_${name.replaceAll('-', '_')}() {
  _arguments \\
${specs.join('\n')}
  '*:file:_files'
}
compdef _${name.replaceAll('-', '_')} ${name}
`;
}
