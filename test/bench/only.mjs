/** The names that `--only` lists, or all; ends the process where one is not known. */
export function chooseOnly(only, known) {
  const names = only?.split(',') ?? known;
  const unknown = names.find((name) => !known.includes(name));
  if (unknown === undefined) return names;
  console.error(`--only: "${unknown}" is not known. Known: ${known.join(', ')}.`);
  process.exit(2);
}
