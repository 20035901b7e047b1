"""Write README.md from nbs/index.ipynb: python scripts/readme.py (--check writes nothing and fails where they
differ)

The rule: markdown cells as they are, with relative links turned from `nbs/` to the top level; code cells as
```python fences without their `#|` lines, with the text of their stored outputs after them, indented by four. A
cell with `#| hide` leaves nothing, one with `#| echo: false` its outputs only; an output that is markdown stays
markdown; pictures among the outputs are left out."""

import argparse, json, posixpath, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTE = '<!-- Made from nbs/index.ipynb by scripts/readme.py: edit the notebook. -->'


def relink(text: str, folder: str = 'nbs') -> str:
    "Links relative to `folder`, in markdown or HTML, made relative to the top level."

    def to_top(m):
        start, target, end = m.groups()
        if re.match(r'[a-z][a-z0-9+.-]*:|[#/]', target):
            return m[0]  # a URL, an anchor, an absolute path
        return start + posixpath.normpath(posixpath.join(folder, target)) + end

    parts = re.split(r'(^```.*?^```[^\n]*$|`[^`\n]+`)', text, flags=re.M | re.S)  # code keeps what it says
    parts[::2] = [re.sub(r'(\]\(|(?:src|href)=")([^)"\s]+)([)"\s])', to_top, p) for p in parts[::2]]
    return ''.join(parts)


def text_of(output: dict) -> str:
    "The text of a stored output, '' where it has none worth reading (a picture's repr, an error)."
    data = output.get('data', {})
    if output['output_type'] == 'stream':
        text = output['text']
    elif any(k.startswith('image/') for k in data):
        return ''
    else:
        text = data.get('text/plain', '')
    return ''.join(text).rstrip()


def readme(nb: dict) -> str:
    "The README that the notebook `nb` (its JSON) stands for."
    parts = [NOTE]
    for cell in nb['cells']:
        lines = ''.join(cell['source']).rstrip().splitlines()
        if cell['cell_type'] == 'markdown':
            parts.append(relink('\n'.join(lines)))
        if cell['cell_type'] != 'code':
            continue
        flags = {re.sub(r'[\s:]+', ' ', l[2:]).strip() for l in lines if l.startswith('#|')}
        if flags & {'hide', 'include false'}:
            continue
        source = '\n'.join(l for l in lines if not l.startswith('#|')).strip()
        if source and 'echo false' not in flags:
            parts.append(f'```python\n{source}\n```')
        if 'output false' in flags:
            continue
        marked = [
            relink(''.join(o['data']['text/markdown'])) for o in cell['outputs'] if 'text/markdown' in o.get('data', {})
        ]
        out = '\n'.join(filter(None, (text_of(o) for o in cell['outputs'] if 'text/markdown' not in o.get('data', {}))))
        if out:
            parts.append('\n'.join(f'    {l}'.rstrip() for l in out.splitlines()))
        parts += marked
    return '\n\n'.join(p for p in parts if p.strip()) + '\n'


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true', help='write nothing; exit status 1 where README.md is not in step')
    a = p.parse_args()
    text, file = readme(json.loads((ROOT / 'nbs/index.ipynb').read_text(encoding='utf-8'))), ROOT / 'README.md'
    if not a.check:
        file.write_text(text, encoding='utf-8')
    elif not file.exists() or file.read_text(encoding='utf-8') != text:
        sys.exit('README.md is not what nbs/index.ipynb says: run `python scripts/readme.py`')
