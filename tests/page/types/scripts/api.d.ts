// What ComfyUI serves at /scripts/api.js.
import type { ComfyApi } from '@comfyorg/comfyui-frontend-types'

export declare const api: ComfyApi
