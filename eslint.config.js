import { readFileSync } from 'node:fs'
import { defineConfig, globalIgnores } from 'eslint/config'
import tseslint from 'typescript-eslint'

const { layers } = JSON.parse(readFileSync(new URL('./tools/layers.json', import.meta.url), 'utf8'))

/** DESIGN §7 in the editor; test/unit/hygiene.test.ts holds the same table more exactly. */
const layerRules = Object.entries(layers).map(([layer, { may, why }]) => ({
  files: [`src/${layer}/**/*.ts`],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: Object.keys(layers)
          .filter((other) => other !== layer && !may.includes(other))
          .map((other) => ({
            // The one file of export/ that other layers may see is export/target.ts.
            regex:
              other === 'export' && may.includes('export/target')
                ? '^(\\.\\./)+export/(?!target\\.ts$)'
                : `^(\\.\\./)+${other}/`,
            message: `src/${layer} may not import src/${other}: ${why}.`,
          })),
      },
    ],
  },
}))

export default defineConfig(
  globalIgnores(['dist/', '.build/', '.tap/', 'node_modules/', 'native/']),
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    linterOptions: { reportUnusedDisableDirectives: 'error', noInlineConfig: true },
    rules: {
      // An un-awaited flush is the bug of this trade.
      '@typescript-eslint/no-floating-promises': ['error', { checkThenables: true }],
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      'max-lines': ['error', { max: 800 }],
      'max-lines-per-function': ['error', { max: 70 }],
      eqeqeq: 'error',
      'no-console': 'error',
      'prefer-const': 'error',
      // Typed arrays are indexed all day; what can be missing goes through must().
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true, allowArray: true },
      ],
      // `ioComplete: (_tag, result) => resolve(result)` is how results are handed on.
      '@typescript-eslint/no-confusing-void-expression': 'off',
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_$' },
      ],
      // `isTTY === true`: node's types promise a boolean that is not always there.
      '@typescript-eslint/no-unnecessary-boolean-literal-compare': 'off',
      // Interfaces of asynchronous operations are also implemented in memory.
      '@typescript-eslint/require-await': 'off',
      // Assertions on what the types already promise are wanted at the edges.
      '@typescript-eslint/no-unnecessary-condition': 'off',
      '@typescript-eslint/no-unnecessary-type-parameters': 'off',
    },
  },
  {
    files: ['test/**/*.ts'],
    rules: {
      // What t.test() returns, tap itself waits for. Everything else must be awaited.
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          checkThenables: true,
          allowForKnownSafePromises: [
            { from: 'package', name: 'PromiseWithSubtest', package: '@tapjs/core' },
          ],
        },
      ],
    },
  },
  { files: ['tools/**/*.ts'], rules: { 'no-console': 'off' } },
  ...layerRules,
)
