import js from '@eslint/js'
import globals from 'globals'

export default [
  js.configs.recommended,
  {
    files: [
      'comfy_remote/node_pack/web/**/*.js',
      'comfy_remote/gateway/seen/page/*.js',
      'comfy_remote/batch/sheet/page/*.js'
    ],
    languageOptions: { globals: globals.browser },
    rules: { eqeqeq: 'error', 'no-var': 'error', 'prefer-const': 'error' }
  }
]
